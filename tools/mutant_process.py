"""Run tests in a forked process in which one module has another source."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Literal, NamedTuple

# Libraries that take long to import. None of ours, and nothing that starts a thread when it is imported.
_LIBRARIES = [
    "_hypothesis_pytestplugin",
    "alembic.command",
    "anyio.pytest_plugin",
    "authlib.oauth2.rfc6749",
    "cryptography.x509",
    "google.rpc.status_pb2",
    "grpc.aio",
    "grpc_health.v1.health_pb2_grpc",
    "httpx",
    "hypothesis",
    "jwt",
    "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
    "opentelemetry.sdk.metrics",
    "opentelemetry.sdk.trace",
    "orjson",
    "prometheus_client",
    "protovalidate",
    "psutil",
    "psycopg",
    "pydantic_settings",
    "pytest",
    "pytest_asyncio.plugin",
    "sqlalchemy.ext.asyncio",
    "starlette.applications",
    "structlog",
    "typer",
    "uvicorn",
]
_NO_TESTS = 5  # exit code of pytest
Outcome = Literal["killed", "survived", "timeout"]


class Limits(NamedTuple):
    """How long tests may take. On a busy machine the CPU time says more; tests that wait use none."""

    seconds: float = 600.0
    cpu_seconds: float = 300.0


class _Source(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from memory."""

    def __init__(self, name: str, source: str) -> None:
        self._name = name
        self._source = source
        self._path = ""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, _: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See MetaPathFinder."""
        if fullname != self._name:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert found is not None  # noqa: S101 - the module is in the checkout
        self._path = found.origin or ""
        return importlib.util.spec_from_loader(fullname, self, origin=found.origin)

    def exec_module(self, module: ModuleType) -> None:
        """See Loader."""
        exec(compile(self._source, self._path, "exec"), module.__dict__)  # noqa: S102 - the mutant


def outcome_of(name: str, source: str, tests: Sequence[str], limits: Limits) -> Outcome:
    """Return whether tests fail if the module `name` has this source; above the CPU time they have failed.

    Raises:
        RuntimeError: pytest found no test.
    """
    for library in _LIBRARIES:
        importlib.import_module(library)
    process = os.fork()
    if process == 0:
        _run(name, source, tests, limits.cpu_seconds)
    os.setpgid(process, process)  # here as well as there, as either may be first
    ends = time.monotonic() + limits.seconds
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > ends:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return "timeout"
        time.sleep(0.02)
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return "survived"
    if code == _NO_TESTS:
        raise RuntimeError(f"pytest found no test in {' '.join(tests)}")
    return "killed"


def _run(name: str, source: str, tests: Sequence[str], cpu_seconds: float) -> None:
    """Run pytest in this process, and end it."""
    code = 3
    try:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(cpu_seconds), math.ceil(cpu_seconds)))
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        sys.meta_path.insert(0, _Source(name, source))
        import pytest  # noqa: PLC0415 - imported before the fork

        options = ["-q", "-x", "-p", "no:xdist", "--hypothesis-seed=0"]
        # The libraries above are imported before pytest could rewrite their assertions.
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        code = int(pytest.main([*options, *tests]))
    finally:
        os._exit(code)
