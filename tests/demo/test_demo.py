"""The demo as a person runs it: the whole system, the tour of it, and nothing left afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from gatehouse.demo.files import realm_file
from gatehouse.demo.stack import Ports, run_stack, write_profile
from gatehouse.demo.tour import Tour
from gatehouse.settings import Profile
from rich.console import Console

from tests.support.issuer import REALM_FILE

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
LEFT_OUT = ("traces_url", "metrics", "issuer_admin_password")
PATIENCE_SECONDS = 280.0


async def start(folder: Path, *arguments: str, **more: str) -> asyncio.subprocess.Process:
    """Starts `gatehouse ARGUMENTS` with `folder` for its files."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("GATEHOUSE_")}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gatehouse", *arguments),
        env=inherited | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"} | more,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def done(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    """Waits for the end of a process and returns its exit code and what it wrote."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def command(folder: Path, *arguments: str, **more: str) -> tuple[int | None, str, str]:
    """Runs `gatehouse ARGUMENTS` with `folder` for its files."""
    return await done(await start(folder, *arguments, **more))


async def lines_until(process: asyncio.subprocess.Process, text: str) -> list[str]:
    """Reads what a process writes, up to the line that has `text`."""
    assert process.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not lines or text not in lines[-1]:
            line = (await process.stdout.readline()).decode()
            assert line, "".join(lines)
            lines.append(line.rstrip("\n"))
    return lines


def left_in(folder: Path) -> list[str]:
    """Names what the demo has left: files in `folder`, and processes that know it."""
    found = [str(path) for path in folder.iterdir()]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(folder) in part for part in process.cmdline()):
                found.append(" ".join(process.cmdline()))
    return found


async def test_tour_shows_everything_as_promised_and_leaves_nothing(
    short_folder: Path, tmp_path: Path
) -> None:
    tour, trace = tmp_path / "tour.svg", tmp_path / "trace.svg"
    code, out, err = await command(short_folder, "demo", "--svg", str(tour), "--trace-svg", str(trace))
    assert (code, err) == (0, ""), out + err
    assert [step for step in STEPS if step not in out] == []
    assert "150 calls, each answered as the policy promises" in out
    assert "checks came out as promised" in out
    assert "left out" not in out
    assert "GetStats" in trace.read_text()
    assert "UserService" in tour.read_text()
    assert left_in(short_folder) == []


def realm_in_which_bob_is_admin(folder: Path) -> Path:
    raw = json.loads(realm_file().read_text())
    (bob,) = (user for user in raw["users"] if user["username"] == "bob")
    bob["realmRoles"].append("admin")
    path = folder / "realm.json"
    path.write_text(json.dumps(raw))
    return path


async def test_a_tour_of_services_that_accept_too_much_marks_it(short_folder: Path, tmp_path: Path) -> None:
    """Signatures alone, with a leeway, admit what has expired or was revoked; and bob holds too much."""
    with (tmp_path / "out").open("w+", encoding="utf-8") as stream:
        console = Console(file=stream, width=140)
        async with run_stack(
            tell=lambda *_: None,
            parent=short_folder,
            realm=realm_in_which_bob_is_admin(tmp_path),
            issuer_settings={"mode": "jwt", "leeway_seconds": 300},
        ) as stack:
            assert await Tour(stack.profile, console).run() is False
        stream.seek(0)
        out = stream.read()
    assert "!OK" in out
    assert "GetUser by expired: the policy promises UNAUTHENTICATED, and it was OK" in out
    assert "bob holds admin, which the realm file does not promise" in out
    assert "checks came out otherwise than promised" in out
    assert "CountUsers, whose rule lets an answer serve again for 1 s: OK" in out
    assert "left out: nobody here can stop the database" in out
    assert left_in(short_folder) == []


@asynccontextmanager
async def kept(folder: Path, **more: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[str]]]:
    """`gatehouse demo --keep`, and the commands that it has printed."""
    process = await start(folder, "demo", "--keep", "--free-ports", **more)
    try:
        lines = await lines_until(process, "Ctrl-C ends everything")
        yield process, [line.strip() for line in lines[lines.index("Paste into another terminal:") + 1 : -2]]
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def paste(commands: list[str]) -> tuple[int | None, str]:
    """Runs commands as a person would who pastes them into a terminal."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", "\n".join(["set -e", *commands])),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        out, _ = await process.communicate()
    return process.returncode, out.decode()


async def test_the_commands_that_it_prints_can_be_pasted(short_folder: Path, tmp_path: Path) -> None:
    async with kept(short_folder) as (process, printed):
        exports, offered = printed[:2], printed[2:]
        assert all(line.startswith("export ") for line in exports)
        assert all(line.startswith(("gatehouse ", "grpcurl ")) for line in offered)
        by_name: dict[str, str] = {line.split("  #")[0].split(" --")[0]: line for line in offered}

        code, out = await paste([*exports, by_name["gatehouse call users ListUsers"]])
        assert code == 0, out
        assert len(json.loads(out.splitlines()[0])["users"]) == 3
        code, out = await paste([*exports, by_name["gatehouse call users CreateUser"]])
        assert (code, "PERMISSION_DENIED" in out) == (1, True), out
        (decode,) = (line for line in offered if line.startswith("gatehouse token decode"))
        code, out = await paste([*exports, decode])
        assert (code, json.loads(out)["claims"]["scope"]) == (0, "read:users"), out

        code, out = await paste([*exports, by_name["gatehouse call admin GetStats"]])
        assert code == 0, out
        shown = out.splitlines()[-1]
        assert shown.startswith("trace: gatehouse trace ")
        picture = tmp_path / "trace.svg"
        code, out = await paste([*exports, f"{shown.removeprefix('trace: ')} --svg {picture}"])
        assert code == 0, out
        assert "UserService/CountUsers (client)" in out
        assert "gatehouse-users" in picture.read_text()

        profile = mixed_up(exports[1].partition("=")[2], tmp_path)
        code, out, err = await command(short_folder, "tour", GATEHOUSE_PROFILE=str(profile))
        assert (code, err) == (1, ""), out + err
        assert "1000 rows, 0 created, 1000 were there already" in out
        assert "AdminService/GetStats by alice: the policy promises OK, and it was UNIMPLEMENTED" in out
        assert [name for name in LEFT_OUT if f"left out: the profile has no {name}" not in out] == []

        process.send_signal(signal.SIGTERM)
        code, out, err = await done(process)
        assert (code, out, err) == (0, "Everything has been stopped and removed.\n", "")
    assert left_in(short_folder) == []


def mixed_up(file: str, folder: Path) -> Path:
    """Writes the profile of a system again, with less in it, and a service where another is."""
    assert Path(file).stat().st_mode & 0o077 == 0
    profile: dict[str, Any] = json.loads(Path(file).read_text())
    for name in LEFT_OUT:
        del profile[name]
    written = folder / "profile.json"
    written.write_text(json.dumps(profile | {"admin_target": profile["public_target"]}))
    return written


async def test_a_service_that_ends_takes_the_system_down_and_is_named(short_folder: Path) -> None:
    async with kept(short_folder) as (process, _):
        children = psutil.Process(process.pid).children()
        (users,) = (child for child in children if child.cmdline()[2:5] == ["gatehouse", "serve", "users"])
        users.kill()
        code, _, err = await done(process)
    assert code == 3
    assert err.startswith("gatehouse: users ended")
    assert err.count("\n") == 1
    assert left_in(short_folder) == []


@pytest.mark.parametrize("moment", ["issuer", "SERVING after"])
async def test_ctrl_c_ends_everything_at_any_moment(short_folder: Path, moment: str) -> None:
    process = await start(short_folder, "demo")
    await lines_until(process, moment)
    process.send_signal(signal.SIGINT)
    code, _, err = await done(process)
    assert (code, err) == (130, "")
    assert left_in(short_folder) == []


async def test_a_taken_port_is_one_line_and_leaves_nothing(short_folder: Path) -> None:
    server = None
    with contextlib.suppress(OSError):  # taken already, which is as good
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", Ports().public)
    code, _, err = await command(short_folder, "demo", "--keep")
    if server is not None:
        server.close()
    assert code == 3
    assert err.startswith("gatehouse: port ")
    assert "is taken; end what listens there" in err
    assert err.count("\n") == 1
    assert left_in(short_folder) == []


async def test_a_realm_that_cannot_be_used_is_one_line(short_folder: Path) -> None:
    code, _, err = await command(short_folder, "demo", "--realm", str(short_folder / "missing.json"))
    assert (code, err.count("\n"), "missing.json: cannot be read" in err) == (2, 1, True)
    assert left_in(short_folder) == []
    assert realm_file() == REALM_FILE


async def test_a_tour_without_passwords_is_one_line(short_folder: Path) -> None:
    code, out, err = await command(short_folder, "tour", GATEHOUSE_PROFILE="missing.json")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_profile_that_is_written_is_the_one_that_is_read(tmp_path: Path) -> None:
    profile = Profile.model_validate(
        {"clients": {"c": "canary"}, "passwords": {"p": "canary"}, "issuer_admin_password": "canary"}
    )
    write_profile(profile, tmp_path / "profile.json")
    assert Profile.model_validate_json((tmp_path / "profile.json").read_bytes()) == profile
