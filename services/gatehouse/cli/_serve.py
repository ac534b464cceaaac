"""The command `serve`."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping
from typing import Annotated

import typer

from gatehouse.app.services import SERVICES, find_services, settings_model
from gatehouse.cli._errors import ExitCode
from gatehouse.cli._options import ReadyFile
from gatehouse.runtime.loop import run_loop
from gatehouse.settings import load_settings


def serve(
    services: Annotated[list[str], typer.Argument(help=f"Some of: {', '.join(SERVICES)}.")],
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that share the ports.")] = 1,
    ready_file: ReadyFile = None,
    worker_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> int:
    """Serve one or more services in one process, or in several that share the ports.

    Examples:
      gatehouse serve users
      gatehouse serve users --workers 4
    """
    from gatehouse.runtime.grpc_tuning import is_active, select_listener  # noqa: PLC0415 - only servers need it

    specs = find_services(services)
    settings = load_settings(settings_model())
    if is_active(settings.server.grpc_tuning):
        select_listener(os.environ)
    gc.disable()  # imports make no garbage, and looking for it takes a tenth of their time
    # These import grpc, which reads the environment at import.
    from gatehouse.app.serve import serve as serve_specs  # noqa: PLC0415
    from gatehouse.app.workers import Parent, run_workers  # noqa: PLC0415
    from gatehouse.runtime.files import write_json  # noqa: PLC0415
    from gatehouse.runtime.logs import open_log  # noqa: PLC0415

    gc.enable()

    parent = None if worker_fd is None else Parent(worker_fd)

    def on_ready(ports: Mapping[str, object]) -> None:
        if parent is not None:
            parent.report_ready(ports)
        elif ready_file is not None:
            write_json(ready_file, ports)

    async def run() -> int:
        if workers > 1:
            with open_log(settings.log) as (logger, _):
                return await run_workers(settings, specs, workers, logger, on_ready)
        await serve_specs(settings, specs, parent=parent, on_ready=on_ready)
        return ExitCode.OK

    try:
        return run_loop(run())
    except Exception as error:
        error.add_note(f"run `gatehouse doctor {' '.join(spec.name for spec in specs)}` to check the rest")
        raise
