"""UserService: the directory of users."""

from gatehouse.users.repository import UserRepository
from gatehouse.users.service import UserService
from gatehouse.users.tables import CHANNEL

__all__ = ["CHANNEL", "UserRepository", "UserService"]
