"""The databases of a service, from its settings: the primary, and standbys if it reads from some."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry.metrics import Meter
from opentelemetry.trace import Tracer
from structlog.typing import FilteringBoundLogger

from gatehouse.runtime.request import return_write_token
from gatehouse.runtime.spec import ServiceSpec
from gatehouse.settings import (
    ServiceSettings,
    Settings,
    StandbySettings,
    database_parameters,
    follow_secret,
    with_login,
)
from gatehouse.storage import Database
from gatehouse.storage.standbys import StandbyConnector, StandbyReads


def open_database(settings: Settings, spec: ServiceSpec[Any], tracer: Tracer | None = None) -> Database:
    """Make the connection pool of a service; it connects on first use."""
    return Database(
        _url(settings, spec),
        pool_size=settings.database.pool_size,
        connect_timeout=settings.database.connect_timeout_seconds,
        tracer=tracer,
        # Costs a round trip for each write.
        on_write=None if _standby_url(settings, spec) is None else return_write_token,
    )


def _url(settings: Settings, spec: ServiceSpec[Any]) -> Callable[[], str]:
    section: ServiceSettings = getattr(settings, spec.name)
    # Read again for each connection: a rotated password needs no restart.
    url = follow_secret(f"{spec.name}__database_url", section.database_url)
    password = follow_secret(f"{spec.name}__database_password", section.database_password)
    role = spec.login_role(settings.database.role_prefix)
    return lambda: with_login(url() or "", role, password())


def _standby_url(settings: Settings, spec: ServiceSpec[Any]) -> Callable[[], str] | None:
    section = getattr(settings, spec.name)
    if not isinstance(section, StandbySettings) or section.standby_url is None:
        return None
    primary = _url(settings, spec)
    url = follow_secret(f"{spec.name}__standby_url", section.standby_url)

    def read() -> str:
        login = database_parameters(primary())
        return with_login(url() or "", login.get("user", ""), login.get("password"))

    return read


def standby_connector(settings: Settings, spec: ServiceSpec[Any]) -> StandbyConnector | None:
    """Return what opens connections to the standbys of a service; None if it has none."""
    url = _standby_url(settings, spec)
    return None if url is None else StandbyConnector(url, settings.database.connect_timeout_seconds)


class Standbys:
    """Makes the readers of standbys, and reports what they do.

    Args:
        settings: All settings.
        logger: For the lines `standby used` and `standby not used`.
        meter: For the reads by source.
        tracer: See Database.
    """

    def __init__(
        self, settings: Settings, logger: FilteringBoundLogger, meter: Meter, tracer: Tracer | None
    ) -> None:
        self._settings = settings
        self._logger = logger
        self._tracer = tracer
        self._reads = meter.create_counter(
            "gatehouse.database.reads",
            unit="{read}",
            description="Reads that a standby may serve, by the server that did",
        )

    def open(self, spec: ServiceSpec[Any], primary: Database) -> StandbyReads | None:
        """Return the reader of the standbys of a service; None if it has none."""
        connector = standby_connector(self._settings, spec)
        if connector is None:
            return None
        sources = {name: {"service": spec.name, "source": name} for name in ("primary", "standby")}

        def on_change(reason: str, detail: str) -> None:
            if not reason:
                self._logger.info("standby used", database=spec.name)
            else:
                self._logger.warning("standby not used", database=spec.name, reason=reason, detail=detail)

        return StandbyReads(
            primary,
            connector,
            max_staleness=getattr(self._settings, spec.name).max_staleness_seconds,
            pool_size=self._settings.database.pool_size,
            tracer=self._tracer,
            on_read=lambda source: self._reads.add(1, sources[source]),
            on_change=on_change,
        )
