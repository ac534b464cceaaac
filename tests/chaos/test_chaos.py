"""The suite of `make chaos`: it reports broken guarantees, records its results, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tests.chaos.environment import open_environment
from tests.chaos.faults import FAULTS
from tests.chaos.model import UNAVAILABLE, Fault, Guarantee, Row, Run
from tests.chaos.report import as_json, line, page, summary
from tests.chaos.run import repeat, try_fault

ROOT = Path(__file__).resolve().parents[2]
HELD = Row(
    "calm", "nothing happens", calls=10, recovery=0.1, guarantees=[Guarantee("no call fails", held=True)]
)
BROKEN = Row(
    "storm",
    "all fails",
    calls=20,
    failures={"INTERNAL": 3},
    detection=1.25,
    lost=1,
    guarantees=[Guarantee("no acknowledged write is lost", held=False, measured="1")],
)

LATE = Guarantee("health is NOT_SERVING within 3 s", held=False, timed=True)
LOST = BROKEN.guarantees[0]


async def chaos(*arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.chaos", *arguments, cwd=ROOT, stdout=-1, stderr=-1
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def _sabotage(run: Run) -> AsyncIterator[None]:
    """Lose one write, make another one twice, and let the reads fail with the wrong code."""
    lost, doubled = run.work.ledger.ids[:2]
    sql = run.environment.sql
    await sql("DELETE FROM users.users WHERE user_id = %s", [lost])
    columns = "event_time, method, subject, client_id, resource, action, trace_id"
    await sql(
        f"INSERT INTO users.audit_events (audit_event_id, {columns})"
        f" SELECT %s, {columns} FROM users.audit_events WHERE resource = %s",
        [uuid.uuid4(), f"users/{doubled}"],
    )
    token, run.work.tokens.value = run.work.tokens.value, "unknown"
    yield
    run.work.tokens.value = token


async def test_broken_guarantees_are_found() -> None:
    fault = Fault(
        "sabotage", "a fault that breaks guarantees", _sabotage, codes=UNAVAILABLE, not_serving_within=1
    )
    async with open_environment(lambda _: None) as environment:
        row = await try_fault(environment, fault)
    broken = {guarantee.text for guarantee in row.guarantees if not guarantee.held}
    assert (row.lost, row.doubled, row.held) == (1, 1, False)
    assert broken >= {
        "calls fail only with UNAVAILABLE",
        "health is NOT_SERVING within 1 s",
        "no acknowledged write is lost",
        "no write is applied twice",
    }
    assert "liveness stays SERVING" not in broken


@pytest.mark.parametrize(
    ("broken", "held", "trials"),
    [
        ([LATE, None], True, 2),
        ([LATE, LATE, LATE, None], False, 3),
        ([LOST, None], False, 1),
        ([LATE, LOST, None], False, 2),
    ],
)
async def test_only_a_limit_in_seconds_gives_another_trial(
    broken: list[Guarantee | None], held: bool, trials: int
) -> None:
    rows = iter([Row("storm", "", guarantees=[] if one is None else [one]) for one in broken])

    async def trial() -> Row:
        return next(rows)

    row = await repeat(trial)
    assert (row.held, row.trials) == (held, trials)


async def test_interrupt_stops_everything_and_removes_all_files(short_folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos", "--fault", "database-cut"),
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(short_folder)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(180):
        assert (await process.stdout.readline()).startswith(b"fault ")  # the system runs
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 130
    assert b"everything was stopped and removed" in err
    assert len(started) > 4
    assert [one for one in started if one.is_running()] == []
    assert not await asyncio.to_thread(os.listdir, short_folder)


async def test_unknown_fault_is_refused_and_the_list_names_all() -> None:
    code, _, err = await chaos("--fault", "earthquake")
    assert (code, "earthquake" in err) == (2, True)
    code, out, _ = await chaos("--list")
    assert code == 0
    assert [entry.split()[0] for entry in out.splitlines()] == list(FAULTS)


def test_line_of_a_fault_is_followed_by_the_guarantees_that_it_broke() -> None:
    assert line(HELD).split() == ["calm", "10", "0", "-", "0.1", "s", "0", "0", "1", "of", "1", "held"]
    first, second = line(BROKEN).splitlines()
    assert first.split() == [
        "storm",
        "20",
        "3",
        "INTERNAL",
        "1.2",
        "s",
        "-",
        "1",
        "0",
        "0",
        "of",
        "1",
        "held",
    ]
    assert second == "  BROKEN: no acknowledged write is lost (1)"
    assert "skipped: needs more" in line(Row("odd", "", skipped="needs more"))


def test_summary_counts_and_says_how_to_try_a_broken_fault_again() -> None:
    text = summary([HELD, BROKEN], 12.0)
    assert "2 faults, 0 skipped, 30 calls, 12 s: 1 of 2 guarantees held, 1 acknowledged writes lost" in text
    assert text.endswith("make chaos FAULT=storm")
    assert [row["held"] for row in json.loads(as_json([HELD, BROKEN]))] == [True, False]


def test_page_keeps_its_text_and_gets_the_table() -> None:
    old = (ROOT / "docs" / "reliability.md").read_text()
    new = page(old, [HELD, BROKEN])
    assert page(new, [HELD, BROKEN]) == new
    assert "| `storm` | all fails | 20 | 3 INTERNAL | 1.2 s | - | 1 | 0 | 0 of 1 held |" in new
    assert new.partition("<!--")[0] == old.partition("<!--")[0]
    assert new.rpartition("-->")[2] == old.rpartition("-->")[2]


def test_page_names_only_faults_that_exist() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    guarantees = text[text.index("## Guarantees") : text.index("## Results")]
    named = set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", guarantees))
    assert named <= set(FAULTS)
