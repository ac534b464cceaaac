"""Serve any of the services in one process."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from gatehouse.app.policy import load_policy
from gatehouse.app.workers import Parent
from gatehouse.runtime import ServiceSpec
from gatehouse.runtime.grpc_tuning import is_active, lower_polling_thread_priority
from gatehouse.runtime.process import Process, cancel
from gatehouse.runtime.signals import StopSignals, run_until_signal
from gatehouse.runtime.telemetry import make_telemetry
from gatehouse.settings import Settings

# For spans at the end of the process, if calls have used up the drain time.
MIN_EXPORT_SECONDS = 1.0


async def serve(
    settings: Settings,
    specs: Sequence[ServiceSpec[Any]],
    *,
    parent: Parent | None = None,
    on_ready: Callable[[Mapping[str, object]], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, in a worker also until its parent ends.

    Args:
        settings: All settings.
        specs: Services to serve.
        parent: The parent process if this is a worker, which shares the ports with others.
        on_ready: Called with the ports when the servers listen.

    Raises:
        ConfigurationError: A setting is missing or invalid.
        PolicyError: An RPC has no access rule.
        TlsError: A certificate cannot be used.
        OSError: A port is not available.
    """
    names = [spec.name for spec in specs]
    telemetry = make_telemetry(settings.telemetry, settings.log, "gatehouse-" + "-".join(names))
    async with AsyncExitStack() as stack:
        signals = stack.enter_context(StopSignals(second_stops_at_once=parent is None))

        if parent is not None:  # until the end, because it may also end the wait for the collector
            stack.push_async_callback(cancel, asyncio.create_task(_follow(parent, signals)))

        async def close_telemetry() -> None:
            server = settings.server
            left = server.stop_delay_seconds + server.drain_seconds - signals.seconds_since_first()
            await telemetry.aclose(max(left, MIN_EXPORT_SECONDS), signals.second)

        stack.push_async_callback(close_telemetry)
        process = Process(settings, telemetry, load_policy().rules, stack)
        verifier_starting = asyncio.create_task(process.verifier.start())
        stack.push_async_callback(cancel, verifier_starting)
        servers = [await process.start(spec) for spec in specs]
        ports: dict[str, object] = {}
        for name, server in zip(names, servers, strict=True):
            ports[name] = await server.start(getattr(settings, name).port, reuse_port=parent is not None)
            stack.push_async_callback(server.stop)
        telemetry.health.report(lambda: [problem for server in servers for problem in server.problems])
        if is_active(settings.server.grpc_tuning):
            lower_polling_thread_priority()
        if on_ready is not None:
            on_ready(ports | {"metrics": telemetry.metrics_port})
        # Everything that exists now lives as long as the process; scanning it again only causes pauses.
        gc.collect()
        gc.freeze()
        await run_until_signal(servers, signals)
        telemetry.logger.info("stopped", services=names)


async def _follow(parent: Parent, signals: StopSignals) -> None:
    if await parent.wants_stop_at_once():
        signals.stop_at_once()
    else:
        signals.stop()
