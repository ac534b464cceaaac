"""PostgreSQL: connections, transactions, readiness, ids, page tokens, audit trail. No gRPC.

`gatehouse.storage.migrations` is imported on its own, because servers do not need alembic.
"""

from gatehouse.storage.audit import Caller, append_audit, audit_table
from gatehouse.storage.connecting import Connector
from gatehouse.storage.database import Database
from gatehouse.storage.direct import DirectSelect
from gatehouse.storage.ids import new_id
from gatehouse.storage.notifications import Notifications
from gatehouse.storage.paging import Page, PageRequest, PageTokenError, fetch_page, write_page_token
from gatehouse.storage.readiness import Readiness

__all__ = [
    "Caller",
    "Connector",
    "Database",
    "DirectSelect",
    "Notifications",
    "Page",
    "PageRequest",
    "PageTokenError",
    "Readiness",
    "append_audit",
    "audit_table",
    "fetch_page",
    "new_id",
    "write_page_token",
]
