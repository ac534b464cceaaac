"""Options of all gRPC channels."""

from __future__ import annotations

# gRPC would otherwise send calls to the proxy that http_proxy, https_proxy or grpc_proxy names, also those to
# loopback, unless no_proxy names the target exactly.
NO_PROXY = ("grpc.enable_http_proxy", 0)
