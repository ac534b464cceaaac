"""Keep what callers send out of gRPC's own log lines.

gRPC decodes paths and metadata as UTF-8. If that fails it logs the bytes, which can be an access token, and
continues with Latin-1. It refuses a call whose path is not UTF-8 before any of our code runs.
"""

from __future__ import annotations

import logging

_GRPC_LOGGER = logging.getLogger("grpc._cython.cygrpc")
_DECODING_FAILED = "Invalid encoding on %s"
_CALL_FAILED = "Unexpected [UnicodeDecodeError] raised by servicer method"
_logger = logging.getLogger(__name__)


def redact_grpc_log() -> None:
    """Filter the log lines of gRPC, for the whole process; a second call has no effect."""
    _GRPC_LOGGER.addFilter(_redact)  # which adds the same function once only


def _redact(record: logging.LogRecord) -> bool:
    if record.msg == _DECODING_FAILED:
        return False
    if str(record.msg).startswith(_CALL_FAILED):
        _logger.warning("gRPC refused a call whose path is not UTF-8")
        return False
    return True
