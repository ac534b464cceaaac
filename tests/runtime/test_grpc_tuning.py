"""The setting of gRPC's core that servers run with."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata

from gatehouse.runtime.grpc_tuning import EXPERIMENTS, MEASURED_WITH, calm_poller, tune_grpc


def test_servers_run_with_the_listener_that_was_measured() -> None:
    environment: dict[str, str] = {}
    tune_grpc(environment)
    assert environment == {"GRPC_EXPERIMENTS": EXPERIMENTS}


def test_what_the_operator_has_set_stays() -> None:
    environment = {"GRPC_EXPERIMENTS": ""}
    tune_grpc(environment)
    assert environment == {"GRPC_EXPERIMENTS": ""}


def test_this_grpcio_is_the_one_that_was_measured() -> None:
    """Another one runs with its defaults; measure it with `make bench` and set MEASURED_WITH anew."""
    assert metadata.version("grpcio") == MEASURED_WITH


def core_says(experiments: str) -> str:
    """Starts a server with these experiments and returns what gRPC's core says to it."""
    program = (
        "import asyncio, grpc\n"
        "async def main():\n"
        "    server = grpc.aio.server()\n"
        "    server.add_insecure_port('127.0.0.1:0')\n"
        "    await server.start()\n"
        "    await server.stop(None)\n"
        "asyncio.run(main())\n"
    )
    environment = os.environ | {"GRPC_EXPERIMENTS": experiments, "GRPC_VERBOSITY": "ERROR"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stderr


def test_the_core_knows_the_experiment() -> None:
    assert "Unknown experiment" in core_says("-no_such_thing")
    assert "Unknown experiment" not in core_says(EXPERIMENTS)


def test_the_command_line_does_not_import_grpc_before_it_is_tuned() -> None:
    program = "import sys, gatehouse.cli, gatehouse.runtime.grpc_tuning; sys.exit('grpc' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


POLICIES = """
import asyncio, os, threading, grpc.aio
from gatehouse.runtime.grpc_tuning import calm_poller

def policies():
    threads = threading.enumerate()
    return {t.name.split("(")[-1].rstrip(")"): os.sched_getscheduler(t.native_id) for t in threads}

async def main():
    print(calm_poller())
    server = grpc.aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    before = policies()
    print(calm_poller())
    after = policies()
    print(*sorted(name for name in after if after[name] != before[name]))
    print(after["_poll_wrapper"] == os.SCHED_BATCH)
    await server.stop(None)

asyncio.run(main())
"""


def test_the_poller_of_grpc_and_no_other_thread_is_calmed() -> None:
    """It is found by the name that Python gives it, which a new gRPC may change."""
    if not hasattr(os, "SCHED_BATCH"):  # a policy of Linux
        assert not calm_poller()
        return
    done = subprocess.run(
        [sys.executable, "-c", POLICIES], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == ["False", "True", "_poll_wrapper", "True"]
