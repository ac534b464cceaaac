"""AdminService: role bindings, the audit trail, and the worker that tells the identity provider."""

from gatehouse.admin.delivery import DeliveryMetrics, Pace, RoleDelivery
from gatehouse.admin.outbox import RoleOutbox
from gatehouse.admin.repository import AdminRepository
from gatehouse.admin.service import AdminService
from gatehouse.admin.tables import CHANNEL as ROLE_OUTBOX_CHANNEL

__all__ = [
    "ROLE_OUTBOX_CHANNEL",
    "AdminRepository",
    "AdminService",
    "DeliveryMetrics",
    "Pace",
    "RoleDelivery",
    "RoleOutbox",
]
