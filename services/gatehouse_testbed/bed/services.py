"""All services in this process, with the clocks and interceptors of the test bed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

from gatehouse.app.policy import load_policy
from gatehouse.app.services import SERVICES, settings_model
from gatehouse.runtime.otel_variables import checked_variables
from gatehouse.runtime.process import Hooks, Process, cancel
from gatehouse.runtime.telemetry import make_telemetry
from gatehouse_testbed.bed.evidence import Evidence
from gatehouse_testbed.bed.spans import make_tracer


@asynccontextmanager
async def run_services(sections: Mapping[str, Any], hooks: Hooks, seen: Evidence) -> AsyncIterator[None]:
    """Serve all services until the context ends. They write their log to standard output.

    Args:
        sections: Sections of the settings.
        hooks: Clocks and additional interceptors.
        seen: Gets their spans.

    Raises:
        ConfigurationError: A setting is invalid.
        OSError: A port is not available.
    """
    settings = settings_model()(**sections)
    telemetry = make_telemetry(settings.telemetry, settings.log, "gatehouse-testbed")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(telemetry.aclose, 1.0)
        with checked_variables():
            traced = replace(telemetry, tracer=make_tracer(seen))
        process = Process(settings, traced, load_policy().rules, stack, hooks)
        starting = asyncio.create_task(process.verifier.start())
        stack.push_async_callback(cancel, starting)
        for name, spec in SERVICES.items():
            server = await process.start(spec)
            await server.start(getattr(settings, name).port)
            stack.push_async_callback(server.stop)
        yield
