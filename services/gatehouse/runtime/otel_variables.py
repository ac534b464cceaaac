"""Variables OTEL_*: an invalid one is an error at start, not a traceback or a warning."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gatehouse.settings import ConfigurationError, environment

_LOGGER = logging.getLogger("opentelemetry")
_DETECTORS = "opentelemetry.sdk.resources"
_NAME = re.compile(r"OTEL_[A-Z0-9_]+")


@contextmanager
def checked_variables() -> Iterator[None]:
    """Raise an error or a warning of OpenTelemetry about its variables as a ConfigurationError.

    Raises:
        ConfigurationError: A variable is invalid. Its value is not in the text, because it may be a secret.
    """
    log = _Warnings()
    _LOGGER.addHandler(log)
    _LOGGER.propagate, before = False, _LOGGER.propagate
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the SDK has no class for this
        raise ConfigurationError(_explain(str(error))) from None
    finally:
        _LOGGER.propagate = before
        _LOGGER.removeHandler(log)
    if log.first is not None:
        raise ConfigurationError(_explain(log.first))


def _explain(message: str) -> str:
    known = environment()
    names = [name for name in _NAME.findall(message) if name in known][:1]
    names = names or sorted(name for name in known if name.startswith("OTEL_"))
    return f"{', '.join(names) or 'OTEL_*'}: {'invalid' if len(names) == 1 else 'one is invalid'}; correct it"


class _Warnings(logging.Handler):
    """Keeps the first warning of this thread or of a resource detector; other threads export spans."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first: str | None = None
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        ours = record.thread == self._thread or record.name == _DETECTORS
        if self.first is None and ours:
            self.first = record.getMessage()
