"""Options of gRPC channels. This module imports nothing, so that the health check of a container is cheap."""

from __future__ import annotations

# gRPC would otherwise send calls to the proxy that http_proxy, https_proxy or grpc_proxy names, also those to
# loopback, unless no_proxy names the target exactly.
NO_PROXY = ("grpc.enable_http_proxy", 0)


def server_name_option(name: str | None) -> list[tuple[str, str]]:
    """Return the option to expect `name` in the certificate of the server; none to expect its target."""
    return [("grpc.ssl_target_name_override", name)] if name else []
