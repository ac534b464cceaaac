"""The command that the console adds to `gatehouse`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from gatehouse.app.profile import load_full_profile
from gatehouse.settings import ConfigurationError, is_loopback
from gatehouse_console.config import DEFAULT_PORT, Origin, parse_links

# What the extra `console` installs; docs/dependencies.md.
_EXTRA = ("jinja2", "starlette", "uvicorn")


def console(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for a free one.")
    ] = DEFAULT_PORT,
    url: Annotated[
        str | None,
        typer.Option(
            help="URL of the console for browsers, such as that of a proxy with TLS; required unless it "
            "listens on loopback."
        ),
    ] = None,
    link: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=URL",
            help="A tool that every page links to, such as Traces=http://localhost:16686; can be repeated.",
        ),
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="File to write the URL to, as JSON, when the console listens.")
    ] = None,
) -> int:
    """Run the web console, which shows who may call what, and why a call is denied.

    It shows the system of the profile (GATEHOUSE_PROFILE). Users sign in at its issuer with the console
    client of the profile. The redirect URIs of that client must include the URL of the console with the path
    /callback.

    Examples:
      gatehouse console

      gatehouse console --host 0.0.0.0 --url https://console.example.com
    """
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise ConfigurationError(f"{', '.join(missing)}: not installed; run pip install 'gatehouse[console]'")
    if url is None and not is_loopback(host):
        raise ConfigurationError(
            f"--host {host}: not a loopback address, so browsers need HTTPS; put a proxy with TLS in front, "
            "and set its URL with --url"
        )
    from gatehouse.runtime.loop import run_loop  # noqa: PLC0415 - other commands need none of these
    from gatehouse_console.serve import serve  # noqa: PLC0415

    origin = Origin.parse(url) if url is not None else None
    links = parse_links(link or ())
    return run_loop(serve(load_full_profile(), host, port, origin, links, ready_file))
