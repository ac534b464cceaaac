"""GATEHOUSE_SERVER__GRPC_TUNING: the listener of gRPC and the priority of its polling thread."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import psutil
import pytest

from gatehouse.runtime.grpc_tuning import (
    EXPERIMENTS,
    MEASURED_GRPCIO,
    is_active,
    lower_polling_thread_priority,
    select_listener,
)


def test_the_installed_grpcio_is_the_one_that_was_measured() -> None:
    """Otherwise `auto` tunes nothing: run `make bench` with the new version and set MEASURED_GRPCIO."""
    assert metadata.version("grpcio") == MEASURED_GRPCIO
    assert is_active("auto")


def test_off_tunes_nothing() -> None:
    assert not is_active("off")


def test_listener_is_selected() -> None:
    environment: dict[str, str] = {}
    select_listener(environment)
    assert environment == {"GRPC_EXPERIMENTS": EXPERIMENTS}


def test_grpc_experiments_of_the_operator_are_kept() -> None:
    environment = {"GRPC_EXPERIMENTS": ""}
    select_listener(environment)
    assert environment == {"GRPC_EXPERIMENTS": ""}


SERVER = """
import asyncio, grpc
async def main():
    server = grpc.aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await server.stop(None)
asyncio.run(main())
"""


def errors_of_grpc(experiments: str) -> str:
    """Start a server with these experiments and return what gRPC writes to standard error."""
    environment = os.environ | {"GRPC_EXPERIMENTS": experiments, "GRPC_VERBOSITY": "ERROR"}
    done = subprocess.run(
        [sys.executable, "-c", SERVER],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stderr


def test_grpc_has_this_experiment() -> None:
    assert "Unknown experiment" in errors_of_grpc("-no_such_thing")
    assert "Unknown experiment" not in errors_of_grpc(EXPERIMENTS)


def test_the_command_line_does_not_import_grpc_before_the_listener_is_selected() -> None:
    program = (
        "import sys, gatehouse.cli._serve, gatehouse.runtime.grpc_tuning; sys.exit('grpc' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


POLICIES = """
import asyncio, os, threading, grpc.aio
from gatehouse.runtime.grpc_tuning import lower_polling_thread_priority

def policies():
    threads = threading.enumerate()
    return {t.name.split("(")[-1].rstrip(")"): os.sched_getscheduler(t.native_id) for t in threads}

async def main():
    print(lower_polling_thread_priority())
    server = grpc.aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    before = policies()
    print(lower_polling_thread_priority())
    after = policies()
    print(*sorted(name for name in after if after[name] != before[name]))
    print(after["_poll_wrapper"] == os.SCHED_BATCH)
    print(lower_polling_thread_priority())
    await server.stop(None)

asyncio.run(main())
"""


def test_only_the_polling_thread_gets_another_policy_and_only_once() -> None:
    """It is found by the name that Python gives it, which a new grpcio may change."""
    if not hasattr(os, "SCHED_BATCH"):  # a policy of Linux
        assert not lower_polling_thread_priority()
        return
    done = subprocess.run(
        [sys.executable, "-c", POLICIES], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == ["False", "True", "_poll_wrapper", "True", "False"]


def tuned_threads(pid: int) -> int:
    return sum(os.sched_getscheduler(thread.id) == os.SCHED_BATCH for thread in psutil.Process(pid).threads())


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="a policy of Linux")
@pytest.mark.parametrize(("setting", "tuned"), [("auto", True), ("off", False)])
async def test_serve_follows_the_setting(
    database_urls: dict[str, str], tmp_path: Path, setting: str, tuned: bool
) -> None:
    ready = tmp_path / "ready.json"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    environment |= {
        "GATEHOUSE_ISSUERS": json.dumps(
            [{"issuer": "https://127.0.0.1:1", "audience": "api", "mode": "jwt"}]
        ),
        "GATEHOUSE_USERS__DATABASE_URL": database_urls["users"],
        "GATEHOUSE_USERS__PORT": "0",
        "GATEHOUSE_TLS__PLAINTEXT": "true",
        "GATEHOUSE_SERVER__GRPC_TUNING": setting,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gatehouse",
        "serve",
        "users",
        "--ready-file",
        str(ready),
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(60):
            while not ready.exists():
                assert process.returncode is None
                await asyncio.sleep(0.05)
        assert tuned_threads(process.pid) == int(tuned)
    finally:
        process.terminate()
        await process.wait()
