"""AdminService: role bindings and the audit trail."""

from gatehouse.admin.repository import AdminRepository
from gatehouse.admin.service import AdminService

__all__ = ["AdminRepository", "AdminService"]
