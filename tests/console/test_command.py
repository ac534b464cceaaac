"""`gatehouse console` as a process."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.child_coverage import measured
from tests.support.cli import Cli
from tests.support.command import Command


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command_prints_its_url_serves_and_ends_at_a_signal(tmp_path: Path, number: int) -> None:
    ready = tmp_path / "ready.json"
    command = [sys.executable, "-m", "gatehouse", "console", "--port", "0", "--ready-file", str(ready)]
    with Command[str](
        command, env=measured({}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().removeprefix("console: ").strip()
            answer = httpx.get(url, trust_env=False)
            assert (answer.status_code, "server" in answer.headers) == (200, False)
        finally:
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")
    assert json.loads(ready.read_text()) == {"url": url}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: not a loopback address"),
        (["--url", "http://console.example.com"], "plain HTTP does not protect cookies"),
        (["--url", "nonsense"], "--url nonsense: not an origin"),
        (["--link", "nonsense"], "--link nonsense: not NAME=URL"),
    ],
)
def test_addresses_without_tls_and_other_nonsense_are_refused(
    cli: Cli, arguments: list[str], message: str
) -> None:
    done = cli("console", *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1


def test_port_that_is_taken_is_an_error_of_one_line(cli: Cli) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = cli("console", "--port", str(port))
    assert (done.code, done.out) == (3, "")
    assert f"127.0.0.1:{port}: cannot listen" in done.err
    assert done.err.count("\n") == 1
