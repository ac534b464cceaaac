"""Faults on a running system under load, with a guarantee for each: `make chaos`, see docs/reliability.md."""

import os

# gRPC warns at every fork that other threads use it; the child calls exec at once, so it is harmless.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
