"""Speed, measured side by side: Gatehouse against the least that could answer the same call."""

import os

# gRPC says at every fork that other threads are calling into it, which is so and does no harm.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
