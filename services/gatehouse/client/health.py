"""Asks servers for their health (grpc.health.v1). It is run every few seconds, so it imports little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatehouse.client.profile import Profile
from gatehouse.settings import ConfigurationError

SERVING, UNREACHABLE = "SERVING", "UNREACHABLE"


def check_health(profile: Profile, services: Sequence[str], name: str, timeout: float) -> dict[str, str]:
    """Returns the status of each service: that of grpc.health.v1, `UNREACHABLE`, or the code of a failure.

    Args:
        profile: Where everything is.
        services: Names of services in `profile.targets`; all of them if empty.
        name: Name that is asked for; "" is the whole server, `liveness` its process.
        timeout: Seconds, for all together.

    Raises:
        ConfigurationError: The file of the authority cannot be read.
    """
    targets = profile.targets
    channels = {service: _channel(profile, targets[service]) for service in services or targets}
    try:
        request = health_pb2.HealthCheckRequest(service=name)
        asked = {
            service: health_pb2_grpc.HealthStub(channel).Check.future(request, timeout=timeout)
            for service, channel in channels.items()
        }
        return {service: _status(call) for service, call in asked.items()}
    finally:
        for channel in channels.values():
            channel.close()


def _channel(profile: Profile, target: str) -> grpc.Channel:
    if profile.plaintext:
        return grpc.insecure_channel(target)
    try:
        authority = None if profile.ca_file is None else profile.ca_file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{profile.ca_file}: cannot be read ({error.strerror})") from None
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(authority))


def _status(call: Any) -> str:
    try:
        status: str = health_pb2.HealthCheckResponse.ServingStatus.Name(call.result().status)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return UNREACHABLE if code is grpc.StatusCode.UNAVAILABLE else code.name
    return status
