"""The server side of gRPC: access policy, interceptor chain, health, reflection, TLS and shutdown."""

from gatehouse.rpc._registration import Service
from gatehouse.rpc.call import (
    Call,
    Interceptor,
    Method,
    RpcType,
    current_call,
    current_principal,
    current_token,
)
from gatehouse.rpc.metrics import RpcMetrics
from gatehouse.rpc.policy import AccessRule, Policy, PolicyError, PolicyOptions
from gatehouse.rpc.server import Server, ServerTelemetry
from gatehouse.rpc.tls import PlaintextRefused, TlsError

__all__ = [
    "AccessRule",
    "Call",
    "Interceptor",
    "Method",
    "PlaintextRefused",
    "Policy",
    "PolicyError",
    "PolicyOptions",
    "RpcMetrics",
    "RpcType",
    "Server",
    "ServerTelemetry",
    "Service",
    "TlsError",
    "current_call",
    "current_principal",
    "current_token",
]
