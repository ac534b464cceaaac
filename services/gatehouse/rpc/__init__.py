"""The platform under every service: policy, interceptor chain, server and channel. No SQL, no HTTP."""

from gatehouse.rpc._adapter import Service
from gatehouse.rpc.call import Call, Method, Shape, current_call, current_principal
from gatehouse.rpc.channel import connect
from gatehouse.rpc.metrics import RpcMetrics
from gatehouse.rpc.policy import AccessRule, Policy, PolicyError
from gatehouse.rpc.server import Server, ServerLimits, StopSignals, run_until_signal
from gatehouse.rpc.tls import ClientTls, PlaintextRefused, ServerTls, TlsError

__all__ = [
    "AccessRule",
    "Call",
    "ClientTls",
    "Method",
    "PlaintextRefused",
    "Policy",
    "PolicyError",
    "RpcMetrics",
    "Server",
    "ServerLimits",
    "ServerTls",
    "Service",
    "Shape",
    "StopSignals",
    "TlsError",
    "connect",
    "current_call",
    "current_principal",
    "run_until_signal",
]
