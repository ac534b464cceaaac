"""Why a request got no usable response, for logs: nothing that a server or a caller can choose."""

from __future__ import annotations

import os
import socket
import ssl

import httpx

# Nothing was sent if httpx raises one of these.
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
# RFC 6749 sections 4.1.2.1 and 5.2, RFC 7009, RFC 8628, RFC 8693, RFC 8707, RFC 9449, and additions of
# Keycloak. No other text of a response gets into an error or a log line.
ERROR_CODES = frozenset(
    {
        "access_denied",
        "authorization_pending",
        "expired_token",
        "insufficient_scope",
        "invalid_client",
        "invalid_dpop_proof",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "invalid_target",
        "invalid_token",
        "not_allowed",
        "server_error",
        "slow_down",
        "temporarily_unavailable",
        "unauthorized_client",
        "unsupported_grant_type",
        "unsupported_response_type",
        "unsupported_token_type",
        "use_dpop_nonce",
    }
)


class HttpFailure(Exception):
    """No complete response arrived.

    Args:
        reason: `timeout`, `unreachable` or `body_too_large`.
        detail: For operators: the URL, and what happened there.
        sent: Whether the server may have received the request.
        responded: Whether the server started to respond.
    """

    def __init__(self, reason: str, *, detail: str, sent: bool, responded: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail
        self.sent = sent
        self.responded = responded


def shown_url(url: httpx.URL) -> str:
    """Return a URL without its query, which may contain a secret."""
    return str(url.copy_with(query=None))


def explain(error: BaseException | None) -> str:
    """Return why there was no response, in words that neither the server nor a request can choose."""
    if isinstance(error, httpx.ProxyError):
        status = str(error)[:3]
        return f"the proxy responded {status}" if status.isdecimal() else "the proxy refused the connection"
    closed = isinstance(error, httpx.RemoteProtocolError | httpx.ReadError | httpx.WriteError)
    while error is not None:
        match error:
            case ssl.SSLCertVerificationError():
                return f"certificate not accepted: {error.verify_message}"
            case ssl.SSLError():
                return f"TLS handshake failed: {error.reason}"
            case socket.gaierror():
                return "unknown host"
            case OSError() if error.errno:
                return os.strerror(error.errno).lower()
            case ExceptionGroup():
                error = error.exceptions[0]
            case _:
                error = error.__cause__ or error.__context__
    return "the connection was closed, or the response is not HTTP" if closed else "no connection"
