"""PublicService: what this system is and how to get in."""

from gatehouse.public.repository import NoticeRepository
from gatehouse.public.service import PublicService

__all__ = ["NoticeRepository", "PublicService"]
