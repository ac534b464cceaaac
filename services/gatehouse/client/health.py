"""Check the health of servers (grpc.health.v1). Containers do it every few seconds, so it imports little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatehouse.client.profile import Profile
from gatehouse.grpc_options import NO_PROXY, server_name_option
from gatehouse.settings import ConfigurationError

SERVING, UNREACHABLE = "SERVING", "UNREACHABLE"
# See rpc.health, which would import the server.
_PROBLEMS_KEY = "gatehouse-problems"


class Health(NamedTuple):
    """The health of a service.

    Attributes:
        status: A status of grpc.health.v1, UNREACHABLE, or a gRPC status code.
        problem: Why it is not SERVING, "" if that is unknown.
    """

    status: str
    problem: str = ""


def check_health(profile: Profile, services: Sequence[str], name: str, timeout: float) -> dict[str, Health]:
    """Return the health of each service.

    Args:
        profile: Targets and certificate authorities.
        services: Names of services in `profile.targets`; all of them if empty.
        name: Name to check: "" is the whole server, `liveness` its process.
        timeout: Seconds, for all checks together.

    Raises:
        ConfigurationError: The CA file cannot be read.
    """
    targets = profile.targets
    channels = {service: _channel(profile, targets[service]) for service in services or targets}
    try:
        request = health_pb2.HealthCheckRequest(service=name)
        calls = {
            service: health_pb2_grpc.HealthStub(channel).Check.future(request, timeout=timeout)
            for service, channel in channels.items()
        }
        return {service: _health(call) for service, call in calls.items()}
    finally:
        for channel in channels.values():
            channel.close()


def _channel(profile: Profile, target: str) -> grpc.Channel:
    if profile.plaintext:
        return grpc.insecure_channel(target, [NO_PROXY])
    try:
        authorities = None if profile.ca_file is None else profile.ca_file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{profile.ca_file}: cannot be read ({error.strerror})") from None
    options = [NO_PROXY, *server_name_option(profile.server_name)]
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(authorities), options)


def _health(call: Any) -> Health:
    try:
        status: str = health_pb2.HealthCheckResponse.ServingStatus.Name(call.result().status)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return Health(
            UNREACHABLE if code is grpc.StatusCode.UNAVAILABLE else code.name, error.details() or ""
        )
    return Health(status, dict(call.trailing_metadata() or ()).get(_PROBLEMS_KEY, ""))
