"""The platform under every service: policy, interceptor chain and server. No SQL, no HTTP."""

from gatehouse.rpc._adapter import Service
from gatehouse.rpc.call import Call, Method, Shape, current_call, current_principal
from gatehouse.rpc.metrics import RpcMetrics
from gatehouse.rpc.policy import AccessRule, Policy, PolicyError
from gatehouse.rpc.server import Server, ServerLimits
from gatehouse.rpc.tls import PlaintextRefused, ServerTls, TlsError

__all__ = [
    "AccessRule",
    "Call",
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
    "TlsError",
    "current_call",
    "current_principal",
]
