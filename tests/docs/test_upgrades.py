"""The example of docs/upgrades.md renames a column, while the versions before and after it run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

import gatehouse
from gatehouse.storage.branches import migrations_folder
from tests.support.database import named, owner_url
from tools.check_migrations.__main__ import check

PACKAGE = Path(gatehouse.__file__).parent
PAGE = Path(__file__).resolve().parents[2] / "docs" / "upgrades.md"
FIRST = '''"""Create a table with rows."""

from alembic import op

revision = "0001_billing"
down_revision = None


def upgrade() -> None:
    op.execute("CREATE TABLE billing.bills (bill_id int PRIMARY KEY, note text NOT NULL)")
    op.execute("INSERT INTO billing.bills SELECT n, 'bill ' || n FROM generate_series(1, 2500) n")
'''
PROGRAM = """
import sys
from gatehouse.storage.branches import MigrationBranch
from gatehouse.storage.migrations import migrate
url, revision = sys.argv[1:]
branch = MigrationBranch("billing", "billing", "bills_role")
print(*migrate(url, [branch], revision=revision, lock_timeout=60))
"""


class Project:
    """A copy of the package, with the migrations of the page.

    Args:
        folder: Where it is.
        url: URL of the owner of its database.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self.services = folder / "services"
        self.migrations = folder / "migrations"
        shutil.copytree(PACKAGE, self.services / PACKAGE.name)
        (self.migrations / "billing").mkdir(parents=True)
        shutil.copy(migrations_folder() / "env.py", self.migrations)
        for script in (
            FIRST,
            *re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL),
        ):
            (revision,) = re.findall(r'^revision = "(\w+)"$', script, re.MULTILINE)
            (self.migrations / "billing" / f"{revision}.py").write_text(script)

    def migrate(self, revision: str) -> str:
        """Migrate to a revision, and return what was applied."""
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, self.url, revision],
            env=os.environ | {"PYTHONPATH": str(self.services)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def project(postgres: Any, tmp_path: Path) -> Iterator[Project]:
    uri = owner_url(postgres)
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE DATABASE bills")
        # Transactions that keep a snapshot, unless they ask for another isolation.
        connection.execute("ALTER DATABASE bills SET default_transaction_isolation = 'repeatable read'")
    yield Project(tmp_path, named(uri, "bills"))
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("DROP DATABASE bills WITH (FORCE)")


def test_a_column_is_renamed_while_two_versions_use_it(project: Project) -> None:
    assert check(project.migrations) == []
    assert project.migrate("0002_memo") == "billing/0001_billing billing/0002_memo"
    with psycopg.connect(project.url, autocommit=True) as connection:

        def run(query: str) -> list[Any]:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []

        # What an attempt that was interrupted has left.
        run("CREATE INDEX ix_bills_memo ON billing.bills (bill_id)")
        # A migration that waits must not hold up an index that the other one creates concurrently.
        with ThreadPoolExecutor(2) as pool:
            applied = list(pool.map(lambda _: project.migrate("0003_memo_rows"), range(2)))
        assert sorted(applied) == ["", "billing/0003_memo_rows"]
        batches = "SELECT count(DISTINCT xmin::text) FROM billing.bills WHERE memo = note"
        assert run(batches) == [(3,)]
        ((definition,),) = run("SELECT pg_get_indexdef('billing.ix_bills_memo'::regclass)")
        assert definition.endswith("(memo)")

        for number, (old, new) in enumerate((("note", "memo"), ("memo", "note")), 3001):
            found = f"SELECT {new} FROM billing.bills WHERE bill_id = {number}"
            run(f"INSERT INTO billing.bills (bill_id, {old}) VALUES ({number}, 'first')")
            assert run(found) == [("first",)]
            run(f"UPDATE billing.bills SET {old} = 'second' WHERE bill_id = {number}")
            assert run(found) == [("second",)]

        assert project.migrate("head") == "billing/0004_no_note"
        run("INSERT INTO billing.bills (bill_id, memo) VALUES (3003, 'third')")
        assert run("SELECT * FROM billing.bills WHERE bill_id = 3003") == [(3003, "third")]
