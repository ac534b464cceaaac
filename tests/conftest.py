"""Environment of all tests; the shared fixtures are in tests/support."""

import os
from pathlib import Path

import hypothesis
import pytest

from gatehouse_testbed.postgres_process import embedded_environment

# Tests start PostgreSQL, and are clients of it, in this process.
_clean = embedded_environment(os.environ)
os.environ.clear()
os.environ.update(_clean)
# PostgreSQL is started with a fork, and the fork handlers of a running gRPC would end the child. gRPC reads
# the variable when it is imported, so set it first.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
# As in gatehouse/__main__.py.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

# A slow machine is not a defect; speed is measured by `make bench`.
hypothesis.settings.register_profile("gatehouse", deadline=None)
hypothesis.settings.load_profile("gatehouse")

pytest_plugins = [
    f"tests.support.{path.stem}" for path in sorted((Path(__file__).parent / "support").glob("[a-z]*.py"))
]
# Some import others; pytest must rewrite their assertions before that.
pytest.register_assert_rewrite(*pytest_plugins)
