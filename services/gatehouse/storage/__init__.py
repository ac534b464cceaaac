"""PostgreSQL: engine, transactions, readiness, ids, page tokens and the audit trail. No gRPC.

Migrations are in `gatehouse.storage.migrations`, so that a service does not import alembic.
"""

from gatehouse.storage.audit import Actor, append_audit, audit_table
from gatehouse.storage.database import Database
from gatehouse.storage.direct import DirectSelect
from gatehouse.storage.ids import new_id
from gatehouse.storage.notifications import Notifications
from gatehouse.storage.paging import Page, page_size, read_page_token, write_page_token
from gatehouse.storage.readiness import Readiness

__all__ = [
    "Actor",
    "Database",
    "DirectSelect",
    "Notifications",
    "Page",
    "Readiness",
    "append_audit",
    "audit_table",
    "new_id",
    "page_size",
    "read_page_token",
    "write_page_token",
]
