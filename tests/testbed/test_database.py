"""The database of the test bed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import grpc
import grpc.aio
import psutil
import psycopg
import pytest

from gatehouse.users.v1 import users_pb2, users_pb2_grpc
from gatehouse_testbed.bed.client import Testbed
from gatehouse_testbed.bed.database import run_database
from gatehouse_testbed.bed.database_cache import MAX_DATABASES, DatabaseCache, cache_folder
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.run_folder import run_folder
from tests.support.eventually import eventually


def damage(cache: Path) -> tuple[Path, str]:
    """Damage the only database of a cache; return its folder and what its state was."""
    (kept,) = cache.iterdir()
    good = (kept / "state.json").read_text()
    (kept / "state.json").write_text("{}")
    (kept / "data" / "PG_VERSION").unlink()
    return kept, good


async def test_damaged_cache_is_replaced(tmp_path: Path) -> None:
    with run_folder() as folder:
        async with run_database(folder / "pg", folder / "first.log", DatabaseCache(tmp_path)):
            pass
        kept, good = damage(tmp_path)
    with run_folder() as folder:
        async with run_database(folder / "pg", folder / "second.log", DatabaseCache(tmp_path)) as database:
            await database.take_snapshot()
            await database.reset()
            async with await psycopg.AsyncConnection.connect(database.url("users", database.port)) as other:
                await other.execute("LOCK TABLE users.users IN ACCESS EXCLUSIVE MODE")
                with pytest.raises(TestbedError, match=r"cannot be reset \(.*lock timeout.*end all calls"):
                    await database.reset()
            await database.reset()
        assert json.loads((kept / "state.json").read_bytes()).keys() == json.loads(good).keys()
        assert (kept / "data" / "PG_VERSION").exists()


def test_cache_keeps_the_databases_that_were_used_last(tmp_path: Path) -> None:
    data, folder = tmp_path / "pg", tmp_path / "cache"
    data.mkdir()
    (tmp_path / "pg.json").write_text("{}")
    others = [folder / f"other-{number}" for number in range(MAX_DATABASES)]
    for used_at, path in enumerate([folder / "part-of-killed-run", *others]):
        path.mkdir(parents=True)
        os.utime(path, (0, used_at))
    running = folder / "part-of-running-run"
    running.mkdir()
    cache = DatabaseCache(folder)
    cache.keep(data)
    (own,) = {*folder.iterdir()} - {*others, running}
    assert {*folder.iterdir()} == {own, *others[1:], running}
    os.utime(own, (0, 0))
    assert cache.copy_to(tmp_path / "copy")
    assert own.stat().st_mtime > MAX_DATABASES
    (data / "new").touch()
    DatabaseCache(folder).keep(data)
    assert not (own / "data" / "new").exists()  # another run was faster
    cache.keep(data)
    assert (own / "data" / "new").exists()  # the one that was copied is damaged
    assert {*folder.iterdir()} == {own, *others[1:], running}


async def test_reset_starts_a_killed_database_again(gatehouse: Testbed) -> None:
    async def is_ok() -> bool:
        token = {"authorization": f"Bearer {gatehouse.token('alice')}"}
        request = users_pb2.GetUserRequest(user_id=gatehouse.users["bob"])
        credentials = grpc.ssl_channel_credentials(gatehouse.ca_file.read_bytes())
        async with grpc.aio.secure_channel(gatehouse.targets["users"], credentials) as channel:
            call = users_pb2_grpc.UserServiceStub(channel).GetUser(request, metadata=[*token.items()])
            return await call.code() is grpc.StatusCode.OK

    for fault in ("hanging", "down", None):
        if fault is not None:
            gatehouse.faults.add("database", state=fault)
        processes = [p for p in psutil.Process().children(recursive=True) if p.name() == "postgres"]
        for process in processes:
            process.kill()
        psutil.wait_procs(processes)
        if fault is None:
            for state in ("down", "hanging"):
                with pytest.raises(TestbedError, match=r"PostgreSQL has ended; a reset .* starts it again$"):
                    gatehouse.faults.add("database", state=state)
        gatehouse.reset()
        await eventually(is_ok)


@pytest.mark.parametrize("value", ["", "relative/folder"])
def test_cache_folder_is_below_home_unless_another_one_is_absolute(value: str) -> None:
    found = cache_folder({"HOME": "/home/alice", "XDG_CACHE_HOME": value})
    assert found == Path("/home/alice/.cache/gatehouse-testbed")
    assert cache_folder({"HOME": value, "XDG_CACHE_HOME": value}).is_absolute()
    assert cache_folder({"XDG_CACHE_HOME": "/cache"}) == Path("/cache/gatehouse-testbed")
