"""Fixtures that all rooms share live in tests/support, one module a part."""

import os
from pathlib import Path


# PostgreSQL is started by a fork, under which the handlers of a gRPC at work would end the child.
# Read when gRPC is imported, so it is set before anything else.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
