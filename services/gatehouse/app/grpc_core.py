"""What gRPC's core reads from the environment when it is imported, and so before anything imports grpc."""

from __future__ import annotations

from collections.abc import MutableMapping
from importlib import metadata

# The older of its two listeners hands a call through fewer threads; `make bench` shows what that spares. The
# name is internal to gRPC, so it is used with the version that was measured and with no other.
MEASURED_WITH = "1.83.2"
EXPERIMENTS = "-event_engine_listener"


def tune_grpc(environment: MutableMapping[str, str]) -> None:
    """Sets GRPC_EXPERIMENTS for servers, unless it is set: whoever runs a server has the last word.

    Args:
        environment: Of this process, or of one that is to be started.
    """
    if metadata.version("grpcio") == MEASURED_WITH:
        environment.setdefault("GRPC_EXPERIMENTS", EXPERIMENTS)
