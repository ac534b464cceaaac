"""The demo as a user runs it: the whole system, the tour, and nothing left afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from gatehouse.app.policy import policy_rows
from gatehouse.app.services import SERVICES
from gatehouse.client.profile import Profile
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.files import realm_file, write_profile
from gatehouse_testbed.health import wait_for_health
from gatehouse_testbed.run_folder import run_folder
from gatehouse_testbed.stack import run_stack
from gatehouse_testbed.stack_ports import Ports
from gatehouse_testbed.tour.steps import STEPS

# <part console>
from tests.console.conftest import open_console

# </part console>
from tests.support.child_coverage import measured, measured_command
from tests.support.cli import Cli, Done
from tests.support.environment import PROXIES
from tests.support.eventually import eventually
from tests.support.foreign import ForeignServer

SKIPPED = ("traces_url", "metrics", "issuer_admin_password")
TIMEOUT_SECONDS = 280.0
COUNT = ("call", "users", "CountUsers", "--as", "alice")
# Without the folder of `gatehouse`.
PATH = "/usr/bin:/bin"
# Each of these, in the environment of a part, would change it or keep it from starting.
HOSTILE = PROXIES | {
    "OTEL_SDK_DISABLED": "true",
    "OTEL_TRACES_SAMPLER": "always_off",
    "PROMETHEUS_MULTIPROC_DIR": "/nonexistent",
    "PGOPTIONS": "nonsense",
    "SSL_CERT_FILE": "/nonexistent",
    "TZ": "nowhere",
    "WEB_CONCURRENCY": "auto",
}


async def start(
    folder: Path, *arguments: str, measure: bool = False, **environment: str
) -> asyncio.subprocess.Process:
    """Start `gatehouse ARGUMENTS` with `folder` for its files, and with coverage of this one process."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("GATEHOUSE_")}
    command = ("-m", "gatehouse", *arguments)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, *(measured_command(*command) if measure else command)),
        env=inherited | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def finish(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    """Wait for a process and return its exit code and its output."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def run(
    folder: Path, *arguments: str, measure: bool = False, **environment: str
) -> tuple[int | None, str, str]:
    """See `start`, and wait for the end of the process."""
    return await finish(await start(folder, *arguments, measure=measure, **environment))


async def read_until(process: asyncio.subprocess.Process, text: str) -> list[str]:
    """Return the lines of a process up to the one that contains `text`."""
    assert process.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not lines or text not in lines[-1]:
            line = (await process.stdout.readline()).decode()
            assert line, "".join(lines)
            lines.append(line.rstrip("\n"))
    return lines


def leftovers(folder: Path) -> list[str]:
    """Return the files in `folder` and the processes that refer to it."""
    found = [str(path) for path in folder.iterdir()]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(folder) in part for part in process.cmdline()):
                found.append(" ".join(process.cmdline()))
    return found


async def test_demo_passes_all_checks_touches_no_other_server_and_leaves_nothing(
    foreign_server: ForeignServer, short_folder: Path
) -> None:
    before = foreign_server.state()
    environment = {"PATH": PATH} | HOSTILE | foreign_server.variables
    code, out, err = await run(short_folder, "demo", measure=True, **environment)
    assert (code, err) == (0, ""), out + err
    steps = re.findall(r"^(\d+)  (.*?) ─+$", out, re.MULTILINE)
    assert steps == [(str(number), title) for number, (title, _) in enumerate(STEPS, 1)]
    calls = 10 * len(policy_rows())
    assert f"{calls} of {calls} calls ended as their access rule requires" in out
    assert re.search(r"All \d+ checks passed", out)
    # <part introspection>
    assert "skipped" not in out
    # </part introspection>
    assert leftovers(short_folder) == []
    assert foreign_server.state() == before
    # The commands that it suggests work in a shell that does not find `gatehouse`.
    (policy,) = (line for line in out.splitlines() if "gatehouse policy  # " in line)
    code, out = await paste([policy], PATH=PATH)
    assert code == 0, out
    assert "UserService/GetUser" in out


def realm_with_bob_as_admin(folder: Path) -> Path:
    raw = json.loads(realm_file().read_text())
    (bob,) = (user for user in raw["users"] if user["username"] == "bob")
    bob["realmRoles"].append("admin")
    path = folder / "realm.json"
    path.write_text(json.dumps(raw))
    return path


async def test_tour_of_services_that_accept_too_much_fails(
    short_folder: Path, tmp_path: Path, cli: Cli
) -> None:
    """Mode jwt with a leeway accepts expired and revoked tokens, and bob has too many scopes."""
    async with run_stack(
        parent=short_folder,
        realm=realm_with_bob_as_admin(tmp_path),
        issuer_settings={"mode": "jwt", "leeway_seconds": 300},
    ) as stack:
        profile = {"GATEHOUSE_PROFILE": str(broken_profile(stack.profile, tmp_path))}

        async def command(*arguments: str) -> Done:
            return await asyncio.to_thread(cli, *arguments, **profile)

        done = await command("seed")
        assert (done.code, done.err) == (0, "")
        assert re.fullmatch(r"[1-9]\d* users created\n", done.out)
        assert (await command("seed")).out == "0 users created\n"
        before = json.loads((await command(*COUNT)).lines[0])
        code, out, err = await run(short_folder, "tour", measure=True, **profile)
        assert (code, err) == (1, ""), out + err
        await check_interrupted_tour(short_folder, profile)
        after = json.loads((await command(*COUNT)).lines[0])
        assert after["total_count"] == before["total_count"] != "0"

        # <part console>
        await check_web_console(stack.profile)
        # </part console>

        os.kill(stack.pids["users"], signal.SIGKILL)
        assert str(await stack.exited("users")) == "users exited: SIGKILL"
        await stack.restart("users")
        await wait_for_health(stack.profile, "users", serving=True, seconds=TIMEOUT_SECONDS)
        with pytest.raises(TestbedError, match=r"users: not NOT_SERVING within 0\.1 s"):
            await wait_for_health(stack.profile, "users", serving=False, seconds=0.1)
    assert "!OK" in out
    assert "GetUser by expired: expected UNAUTHENTICATED, got OK" in out
    # <part admin>
    assert "AdminService/GetStats by alice: expected OK, got UNIMPLEMENTED" in out
    # </part admin>
    assert "bob has admin (not in the realm file)" in out
    assert "1000 rows, 1000 created, 0 already existed" in out
    assert re.search(r"\d+ of \d+ checks failed:", out)
    # <part introspection>
    assert "CountUsers, with a revocation budget of 1 s: OK" in out
    # </part introspection>
    assert "skipped: this tour cannot stop the database" in out
    assert [name for name in SKIPPED if f"skipped: the profile has no {name}" not in out] == []
    assert leftovers(short_folder) == []


async def check_interrupted_tour(folder: Path, profile: dict[str, str]) -> None:
    """Check that Ctrl-C ends a tour between its first steps."""
    process = await start(folder, "tour", **profile)
    await read_until(process, f"1  {STEPS[0][0]}")
    process.send_signal(signal.SIGINT)
    code, _, err = await finish(process)
    assert (code, err) == (130, "")


# <part console>
async def check_web_console(profile: Profile) -> None:
    """Check that the web console finds the traces, logs and metrics of the stack."""
    async with AsyncExitStack() as opened:
        browser = (await open_console(opened, profile))()
        await browser.sign_in("alice")
        cell = await browser.get("/cell/you/gatehouse.users.v1.UserService/ListUsers")
        link = re.search(r"/traces/[0-9a-f]{32}", cell.text)
        assert link is not None, cell.text

        async def trace() -> bool:
            text = (await browser.get(link[0])).text
            # A span and a log line. There is no span of a verification if the answer came from the cache.
            return "SELECT" in text and "<dt>rpc_type</dt>" in text

        async def metrics() -> bool:
            text = (await browser.get("/metrics")).text  # each service reports its connections
            return all(f"<span>{name}</span>" in text for name in SERVICES)

        assert await eventually(trace, interval=0.5)
        assert await eventually(metrics, interval=0.5)


# </part console>
def broken_profile(profile: Profile, folder: Path) -> Path:
    """Write a profile without optional parts, and with another service at the address of AdminService."""
    file = folder / "profile.json"
    write_profile(profile, file)
    assert file.stat().st_mode & 0o077 == 0
    content: dict[str, Any] = json.loads(file.read_text())
    for name in SKIPPED:
        content.pop(name, None)
    # <part admin>
    content["targets"]["admin"] = content["targets"]["users"]
    # </part admin>
    file.write_text(json.dumps(content))
    return file


@asynccontextmanager
async def kept_running(
    folder: Path, *arguments: str, measure: bool = False, **environment: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[str]]]:
    """`gatehouse demo --keep` and the commands that it prints."""
    keep = ("demo", "--keep", "--free-ports", *arguments)
    process = await start(folder, *keep, measure=measure, **{"PATH": PATH} | environment)
    try:
        lines = await read_until(process, "Stop everything with Ctrl-C")
        first = lines.index("Paste into another terminal:") + 1
        yield process, [line.strip() for line in lines[first:-2]]
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def paste(commands: list[str], **environment: str) -> tuple[int | None, str]:
    """Run commands as a user would who pastes them into a terminal."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", "\n".join(["set -e", *commands])),
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(TIMEOUT_SECONDS):
        out, _ = await process.communicate()
    return process.returncode, out.decode()


async def test_printed_commands_can_be_pasted(short_folder: Path, tmp_path: Path) -> None:
    async with kept_running(short_folder, measure=True) as (process, printed):
        exports, commands = printed[:2], printed[2:]
        assert all(line.startswith("export ") for line in exports)
        assert all(line.startswith(("gatehouse ", "grpcurl ", "kill ", "(. ")) for line in commands)
        by_name: dict[str, str] = {line.split("  #")[0].split(" --")[0]: line for line in commands}

        code, out = await paste([*exports, by_name["gatehouse call users ListUsers"]])
        assert code == 0, out
        assert len(json.loads(out.splitlines()[0])["users"]) == 3
        code, out = await paste([*exports, by_name["gatehouse call users CreateUser"]])
        assert (code, "PERMISSION_DENIED" in out) == (1, True), out
        (decode,) = (line for line in commands if line.startswith("gatehouse token decode"))
        code, out = await paste([*exports, decode])
        assert (code, json.loads(out)["claims"]["scope"]) == (0, "read:users"), out

        (doctor,) = (line for line in commands if "gatehouse doctor" in line)
        code, out = await paste([*exports, doctor])
        assert (code, "warning" in out) == (0, False), out

        code, out = await paste([*exports, by_name["gatehouse call users CountUsers"]])
        assert code == 0, out
        hint = out.splitlines()[-1]
        assert hint.startswith("trace: gatehouse trace ")
        picture = tmp_path / "trace.svg"
        code, out = await paste([*exports, f"{hint.removeprefix('trace: ')} --svg {picture}"], **measured({}))
        assert code == 0, out
        assert "UserService/CountUsers" in out
        assert "SELECT" in out
        assert "gatehouse-users" in picture.read_text()

        (kill,) = (line for line in commands if line.startswith("kill "))
        ((stop, again),) = re.findall(r"^(kill \d+)  # .*; (kill -USR1 \d+) starts it again$", kill)
        assert await paste([stop]) == (0, "")
        await read_until(process, "users exited: ")
        await read_until(process, f"  start it again: {again}")
        assert await paste([again]) == (0, "")
        await read_until(process, "users runs again")

        process.send_signal(signal.SIGINT)
        code, out, err = await finish(process)
        assert (code, out, err) == (0, "Everything was stopped and removed.\n", "")
    assert leftovers(short_folder) == []


def shared_memory() -> set[str]:
    """Return the ids of all segments of System V shared memory, on Linux."""
    file = Path("/proc/sysvipc/shm")
    return {line.split()[1] for line in file.read_text().splitlines()} if file.exists() else set()


async def test_kept_system_survives_killed_parts_and_leaves_nothing_when_it_is_killed(
    short_folder: Path, tmp_path: Path
) -> None:
    ready_file = tmp_path / "ready.json"
    keep = kept_running(short_folder, "--ready-file", str(ready_file), **HOSTILE)
    async with keep as (demo, _):
        ready = json.loads(ready_file.read_text())
        pids = ready["pids"]
        others = ["postgres", "issuer"]
        # <part console>
        others.append("console")
        async with httpx.AsyncClient(trust_env=False) as http:
            assert "Sign in" in (await http.get(ready["console"])).text
        # </part console>
        assert (ready["pid"], set(pids)) == (demo.pid, {*others, *SERVICES})
        killed = ("users", *others)
        for name in killed:
            os.kill(pids[name], signal.SIGKILL)
            await read_until(demo, f"{name} exited: SIGKILL")
            await read_until(demo, f"  start it again: kill -USR1 {demo.pid}")
        demo.send_signal(signal.SIGUSR1)
        for _ in killed:
            await read_until(demo, " runs again")
        pids = await eventually(lambda: changed_pids(ready_file, pids))
        code, out = await paste(
            [f"{sys.executable} -m gatehouse call users CountUsers --as alice"],
            GATEHOUSE_PROFILE=ready["profile"],
        )
        assert code == 0, out

        # A process that is stopped cannot end by itself.
        psutil.Process(pids["users"]).suspend()
        children = psutil.Process(demo.pid).children(recursive=True)
        assert len(children) > len(pids)
        assert not {name for child in children for name in child.environ() if name.startswith("PG")}
        folder = Path(ready["profile"]).parents[1]
        server, *_, memory, _ = (folder / "pg" / "postmaster.pid").read_text().splitlines()
        os.kill(int(server), signal.SIGKILL)
        demo.kill()
        stopped = [child for child in children if child.pid == pids["users"]]
        await eventually(lambda: [child for child in children if is_running(child)] == stopped)
        assert leftovers(short_folder)
        with run_folder(short_folder):
            assert not is_running(stopped[0])
    assert leftovers(short_folder) == []
    assert memory.split()[1] not in shared_memory()


def changed_pids(ready_file: Path, before: dict[str, int]) -> dict[str, int]:
    """Return the process ids in the ready file, {} if they have not changed yet."""
    pids: dict[str, int] = json.loads(ready_file.read_text())["pids"]
    return pids if pids != before else {}


def is_running(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


async def test_ctrl_c_during_the_start_stops_everything(short_folder: Path) -> None:
    process = await start(short_folder, "demo", measure=True)
    await read_until(process, "issuer")
    process.send_signal(signal.SIGINT)
    code, _, err = await finish(process)
    assert (code, err) == (130, "")
    assert leftovers(short_folder) == []


async def test_taken_port_is_an_error_of_one_line(short_folder: Path) -> None:
    server = None
    with contextlib.suppress(OSError):  # another program may have the port already
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", Ports.default().services["users"])
    code, _, err = await run(short_folder, "demo", "--keep", measure=True)
    if server is not None:
        server.close()
    assert code == 3
    assert err.startswith("gatehouse: port ")
    assert "is taken; stop what listens there" in err
    assert err.count("\n") == 1
    assert leftovers(short_folder) == []


async def test_missing_realm_file_is_an_error_of_one_line(short_folder: Path) -> None:
    code, _, err = await run(
        short_folder, "demo", "--realm", str(short_folder / "missing.json"), measure=True
    )
    assert (code, err.count("\n"), "missing.json: cannot be read" in err) == (2, 1, True)
    assert leftovers(short_folder) == []


async def test_missing_profile_is_an_error_of_one_line(short_folder: Path) -> None:
    code, out, err = await run(short_folder, "tour", GATEHOUSE_PROFILE="missing.json")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_written_profile_can_be_loaded(tmp_path: Path) -> None:
    profile = Profile.model_validate(
        {"clients": {"c": "canary"}, "passwords": {"p": "canary"}, "issuer_admin_password": "canary"}
    )
    write_profile(profile, tmp_path / "profile.json")
    assert Profile.model_validate_json((tmp_path / "profile.json").read_bytes()) == profile
