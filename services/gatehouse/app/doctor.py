"""Check what services depend on, with the settings that they would start with."""

from __future__ import annotations

import asyncio
import datetime as dt
import io
import itertools
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

from gatehouse.app.policy import load_policy
from gatehouse.app.profile import server_profile
from gatehouse.client.profile import local_host
from gatehouse.runtime import ServiceContext, ServiceSpec
from gatehouse.runtime.databases import open_database, standby_connector
from gatehouse.runtime.doctor import Problem, Result, Status, attempt
from gatehouse.runtime.doctor.certificates import check_handshake, check_validity
from gatehouse.runtime.doctor.collector import check_collector
from gatehouse.runtime.doctor.database import check_database, check_standby
from gatehouse.runtime.doctor.issuers import check_issuer
from gatehouse.runtime.doctor.ports import check_metrics_port, check_port
from gatehouse.runtime.doctor.secrets import check_secrets
from gatehouse.runtime.http_clients import HttpClients
from gatehouse.runtime.logs import capture_standard_logging
from gatehouse.runtime.process import Process
from gatehouse.runtime.telemetry import discard_telemetry
from gatehouse.settings import ConfigurationError, Settings, setting_values

Check = Coroutine[Any, Any, Sequence[Result]]
_SETTINGS = ": settings"


async def diagnose(settings: Settings, specs: Sequence[ServiceSpec[Any]]) -> list[Result]:
    """Run all checks concurrently, and return their results in a fixed order.

    Args:
        settings: The settings.
        specs: The services to check.
    """
    # Libraries must not write to the terminal.
    with capture_standard_logging(settings.log, io.StringIO()):
        groups = await asyncio.gather(
            *_certificates(settings),
            *(_issuer(settings, index) for index in range(len(settings.issuers))),
            _one("collector", check_collector(settings.telemetry)),
            *(_service(settings, spec) for spec in specs),
        )
    results = itertools.chain([_settings(settings)], check_secrets(settings), *groups)
    return list(_without_repeats(results))


def _settings(settings: Settings) -> Result:
    origins = Counter(row.origin for row in setting_values(settings))
    del origins["default"]
    counts = [f"{count} from {origin}" for origin, count in origins.items()]
    return Result("settings", Status.OK, f"{', '.join(counts) or 'none set'}; the others have their defaults")


def _certificates(settings: Settings) -> Iterator[Check]:
    now, tls = dt.datetime.now(dt.UTC), settings.tls
    host = settings.server.host
    name = server_profile(settings).server_name or local_host(host)
    yield _one("tls", check_handshake(tls, host, name))
    for name, file in (("certificate", tls.certificate_file), ("authorities", tls.ca_file)):
        if file is not None:
            yield _one(f"tls: {name}", check_validity(file, now))


async def _issuer(settings: Settings, index: int) -> Sequence[Result]:
    name, config = f"issuers[{index}]", settings.issuers[index]
    async with AsyncExitStack() as stack:
        http_for = HttpClients([config], discard_telemetry().tracer, settings.tls.reload_seconds, stack)
        try:
            http = http_for(config)
        except ConfigurationError as error:
            return [Result(name, Status.FAILED, str(error))]
        return await check_issuer(name, config, http)


async def _service(settings: Settings, spec: ServiceSpec[Any]) -> Sequence[Result]:
    """Check whether its server can be built, its ports, its database, and what only this service uses."""
    name, server_name = spec.name, server_profile(settings).server_name
    async with AsyncExitStack() as stack:
        database = open_database(settings, spec)
        stack.push_async_callback(database.aclose)
        contexts: list[ServiceContext[Any]] = []

        async def build() -> str:
            process = Process(settings, discard_telemetry(), load_policy().rules, stack)
            context = process.context(spec)
            server = (await process.build(spec, context)).server
            contexts.append(context)
            issuers, methods = process.online_rules(server)
            if issuers and methods:
                raise Problem(
                    f"{', '.join(methods)}: unavailable with tokens of {', '.join(issuers)}, because "
                    "their rules need introspection; set `mode` to hybrid",
                    Status.WARNING,
                )
            return "complete"

        built = await attempt(f"{name}{_SETTINGS}", build())
        standby = standby_connector(settings, spec)
        own = [spec.checks(context) for context in contexts] if spec.checks is not None else []
        groups = await asyncio.gather(
            _one(f"{name}: port", check_port(settings, name, spec.descriptor.full_name, server_name)),
            _one(f"{name}: metrics", check_metrics_port(settings, name)),
            check_database(spec, database, spec.login_role(settings.database.role_prefix)),
            *([] if standby is None else [_one(f"{name}: standby", check_standby(spec, standby))]),
            *own,
        )
    return [built, *(result for group in groups for result in group)]


async def _one(check: str, work: Coroutine[Any, Any, str]) -> Sequence[Result]:
    return [await attempt(check, work)]


def _without_repeats(results: Iterable[Result]) -> Iterator[Result]:
    """Yield the results, but what keeps every server from starting, such as a wrong key, only once."""
    seen = set()
    for result in results:
        repeats = result.check.endswith(_SETTINGS) and result.detail in seen
        if result.status is not Status.FAILED or not repeats:
            seen.add(result.detail)
            yield result
