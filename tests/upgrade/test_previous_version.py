"""The services of the previous version serve every RPC on the new schema, unless a migration breaks them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.upgrade.conftest import ROOT
from tests.upgrade.previous import MIGRATIONS, Previous, copy_previous
from tools.check_migrations.__main__ import check

BREAKING = '''"""Add a column that the previous version does not write."""

import sqlalchemy as sa
from alembic import op

revision = "9999_breaking"
down_revision = "{head}"


def upgrade() -> None:
    op.add_column("users", sa.Column("nickname", sa.Text, nullable=False), schema="users")
'''


def prepare(previous: Previous, folder: Path) -> None:
    """Write the previous version with the migrations of the working tree.

    A service that was removed keeps its own: removing it does not remove its tables.
    """
    copy_previous(ROOT, previous, folder)
    for branch in (ROOT / MIGRATIONS).iterdir():
        if any(branch.glob("*.py")):
            shutil.rmtree(folder / MIGRATIONS / branch.name, ignore_errors=True)
            shutil.copytree(branch, folder / MIGRATIONS / branch.name)


def run_demo(folder: Path) -> tuple[int, str]:
    """Run the demo of a version, which migrates and calls every RPC; return its exit code and its output."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GATEHOUSE_", "COV_"))}
    done = subprocess.run(
        [sys.executable, "-m", "gatehouse", "demo"],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(folder / "services")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    return done.returncode, done.stdout


def test_every_rpc_of_the_previous_version_works_on_the_new_schema(
    previous: Previous, tmp_path: Path
) -> None:
    prepare(previous, tmp_path / "old")
    code, output = run_demo(tmp_path / "old")
    assert code == 0, output
    assert re.search(r"(\d+) of \1 ", output), output


def test_a_migration_that_breaks_the_previous_version_is_found_and_refused(
    previous: Previous, tmp_path: Path
) -> None:
    """This shows that the test above can fail."""
    prepare(previous, tmp_path / "old")
    migrations = tmp_path / "old" / MIGRATIONS
    head = max(path.stem for path in (migrations / "users").glob("[0-9]*.py"))
    breaking = migrations / "users" / "9999_breaking.py"
    breaking.write_text(BREAKING.format(head=head))

    code, output = run_demo(tmp_path / "old")
    assert code == 1, output
    assert re.search(r"CreateUser|ImportUsers", output), output

    (refused,) = (line for line in check(migrations) if line.startswith(str(breaking)))
    assert ": adding-required-field: " in refused
