"""PostgreSQL: engine, transactions, readiness, ids, page tokens, audit trail and migrations. No gRPC."""

from gatehouse.storage.audit import Actor, append_audit, audit_table
from gatehouse.storage.database import Database
from gatehouse.storage.ids import new_id
from gatehouse.storage.migrations import MigrationBranch, MigrationError, check_migrations, migrate
from gatehouse.storage.notifications import Notifications
from gatehouse.storage.paging import Page, PageRequest, PageTokenError, fetch_page, write_page_token
from gatehouse.storage.query import Query
from gatehouse.storage.readiness import Readiness

__all__ = [
    "Actor",
    "Database",
    "MigrationBranch",
    "MigrationError",
    "Notifications",
    "Page",
    "PageRequest",
    "PageTokenError",
    "Query",
    "Readiness",
    "append_audit",
    "audit_table",
    "check_migrations",
    "fetch_page",
    "migrate",
    "new_id",
    "write_page_token",
]
