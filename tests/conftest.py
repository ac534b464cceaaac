"""Fixtures that all rooms share live in tests/support, one module a part."""

import os
from pathlib import Path

import pytest
from gatehouse.demo.postgres_process import embedded_environment

# Tests start PostgreSQL, and are clients of it, in this process.
_clean = embedded_environment(os.environ)
os.environ.clear()
os.environ.update(_clean)
# PostgreSQL is started by a fork, under which the handlers of a gRPC at work would end the child.
# Read when gRPC is imported, so it is set before anything else.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
# As `gatehouse` itself has it.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

pytest_plugins = [
    f"tests.support.{path.stem}" for path in sorted((Path(__file__).parent / "support").glob("[a-z]*.py"))
]
# Some of them import others, which must not be before pytest knows of those.
pytest.register_assert_rewrite(*pytest_plugins)
