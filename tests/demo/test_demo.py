"""The demo as a person runs it: the whole system, the tour of it, and nothing left afterwards."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import psutil

STEPS = (
    "1  A thousand users arrive in one stream",
    "2  Every caller at every RPC",
    "3  Why they were refused",
    "4  A token is revoked",
    "5  A role is given, and taken back",
    "6  The signing key is rotated under load",
    "7  The database goes away and comes back",
    "8  One call, seen in its trace",
    "9  What the services counted",
)


async def command(folder: Path, *arguments: str, **more: str) -> tuple[int | None, str, str]:
    """Runs `gatehouse ARGUMENTS` with `folder` for its files."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("GATEHOUSE_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gatehouse", *arguments),
        env=inherited | {"TMPDIR": str(folder)} | more,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(280):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def left_in(folder: Path) -> list[str]:
    """Names what the demo has left: files in `folder`, and processes that know it."""
    processes = [
        " ".join(found.info["cmdline"])
        for found in psutil.process_iter(["cmdline"])
        if any(str(folder) in part for part in found.info["cmdline"] or ())
    ]
    return [str(path) for path in folder.iterdir()] + processes


async def test_tour_shows_everything_as_promised_and_leaves_nothing(short_folder: Path) -> None:
    pictures = short_folder.with_name(short_folder.name + "-pictures")
    pictures.mkdir()
    tour, trace = pictures / "tour.svg", pictures / "trace.svg"
    try:
        code, out, err = await command(short_folder, "demo", "--svg", str(tour), "--trace-svg", str(trace))
        assert (code, err) == (0, ""), out + err
        assert [step for step in STEPS if step not in out] == []
        assert "150 calls, each answered as the policy promises" in out
        assert "checks came out as promised" in out
        assert "left out" not in out
        assert "GetStats" in trace.read_text()
        assert "UserService" in tour.read_text()
        assert left_in(short_folder) == []
    finally:
        for path in pictures.iterdir():
            path.unlink()
        pictures.rmdir()
