"""The database of the test bed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gatehouse_testbed.bed.database import cache_folder, run_database
from gatehouse_testbed.bed.faults import DatabaseFault
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.run_folder import run_folder


def damage(cache: Path) -> tuple[Path, str]:
    """Damage the only database of a cache; return its folder and what its state was."""
    (kept,) = cache.iterdir()
    good = (kept / "state.json").read_text()
    (kept / "state.json").write_text("{}")
    (kept / "data" / "PG_VERSION").unlink()
    return kept, good


async def test_damaged_cache_is_replaced(tmp_path: Path) -> None:
    with run_folder() as folder:
        async with run_database(folder / "pg", folder / "first.log", tmp_path):
            pass
        kept, good = damage(tmp_path)
    with run_folder() as folder:
        async with run_database(folder / "pg", folder / "second.log", tmp_path) as database:
            await database.take_snapshot()
            await database.reset()
            fault = DatabaseFault(target="database")
            await database.apply(fault)
            with pytest.raises(TestbedError, match=r"cannot be reset \(connection failed.*refused"):
                await database.reset()
            await database.lift(fault)
            await database.reset()
        assert json.loads((kept / "state.json").read_bytes()).keys() == json.loads(good).keys()
        assert (kept / "data" / "PG_VERSION").exists()


@pytest.mark.parametrize("value", ["", "relative/folder"])
def test_cache_folder_is_below_home_unless_another_one_is_absolute(value: str) -> None:
    found = cache_folder({"HOME": "/home/alice", "XDG_CACHE_HOME": value})
    assert found == Path("/home/alice/.cache/gatehouse-testbed")
    assert cache_folder({"XDG_CACHE_HOME": "/cache"}) == Path("/cache/gatehouse-testbed")
