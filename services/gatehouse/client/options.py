"""Options of the channels to services: retries, balancing, keepalive and the size of messages."""

from __future__ import annotations

import json
from typing import Any

from gatehouse.grpc_options import NO_PROXY, server_name_option

# UNAVAILABLE is the only code that is safe to retry for every RPC: the server has not started the call.
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
_THROTTLING = {"retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1}}


def channel_options(server_name: str | None, max_message_bytes: int) -> list[tuple[str, Any]]:
    """Return the options of a channel.

    Args:
        server_name: Name in the certificate of the server, if it is not that of the target.
        max_message_bytes: Largest message, in either direction.
    """
    return [
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG | _THROTTLING)),
        ("grpc.enable_retries", 1),
        NO_PROXY,
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        *server_name_option(server_name),
    ]


def options_for_tests() -> list[tuple[str, Any]]:
    """Return options with which a channel recovers at once from faults, however many there were."""
    return [
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.initial_reconnect_backoff_ms", 10),
        ("grpc.max_reconnect_backoff_ms", 10),
    ]
