"""A PostgreSQL of three nodes: Patroni with etcd, synchronous replication, and automatic failover."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from gatehouse.app.services import migration_branches
from gatehouse.storage.migrations import migrate
from gatehouse_testbed.accounts import find_account, temporary_folder
from gatehouse_testbed.ports import HOST, free_port
from tests.ha import programs
from tests.support.eventually import eventually

DATABASE = "gatehouse"
START_SECONDS = 90.0
# Patroni allows no shorter ones. A leader that disappears is replaced after TTL_SECONDS.
TTL_SECONDS = 20
LOOP_SECONDS = 1
_OWNER = "postgres"
_SETTLED = [("leader", "running"), ("replica", "streaming"), ("sync_standby", "streaming")]
_DCS = {
    "ttl": TTL_SECONDS,
    "loop_wait": LOOP_SECONDS,
    "retry_timeout": 3,
    "synchronous_mode": True,
    # Without a synchronous standby, the leader acknowledges no commit.
    "synchronous_mode_strict": True,
    "postgresql": {
        "use_pg_rewind": True,
        "parameters": {
            "wal_log_hints": "on",
            "max_connections": 60,
            "shared_buffers": "16MB",
            "wal_sender_timeout": "5s",
            "wal_receiver_timeout": "5s",
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",
            "fsync": "off",
        },
    },
}


@dataclass
class Node:
    """A node: Patroni and its PostgreSQL.

    Attributes:
        name: Name in the cluster.
        port: Port of PostgreSQL.
        api: Port of Patroni's REST API.
        folder: Its files.
        patroni: The process of Patroni.
    """

    name: str
    port: int
    api: int
    folder: Path
    patroni: asyncio.subprocess.Process | None = None

    @property
    def data(self) -> Path:
        """Data folder of PostgreSQL."""
        return self.folder / "data"

    def processes(self) -> list[psutil.Process]:
        """Return all processes of the node, Patroni first, then PostgreSQL and its backends."""
        pids = [] if self.patroni is None else [self.patroni.pid]
        with suppress(OSError, IndexError, ValueError):
            pids.append(int((self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0]))
        found: list[psutil.Process] = []
        for pid in pids:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                found += [process, *process.children(recursive=True)]
        return found


class Cluster:
    """Three nodes and their etcd.

    Args:
        folder: For all files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._etcd: asyncio.subprocess.Process | None = None
        self._etcd_port = free_port()
        self._passwords = {name: secrets.token_urlsafe(18) for name in (_OWNER, "replicator", "rewind_user")}
        self._role_passwords = {b.name: secrets.token_urlsafe(18) for b in migration_branches()}
        self.nodes = [Node(f"node-{n}", free_port(), free_port(), folder / f"node-{n}") for n in (1, 2, 3)]

    # Addresses.

    @property
    def owner_url(self) -> str:
        """URL of the owner on whichever node is the leader."""
        return self._url(_OWNER, self._passwords[_OWNER])

    def urls(self) -> dict[str, str]:
        """Return the database URL of each service: all nodes, of which the writable one is used."""
        return {b.name: self._url(b.login_role, self._role_passwords[b.name]) for b in migration_branches()}

    @property
    def standby_url(self) -> str:
        """URL of the standbys, without a login."""
        query = "target_session_attrs=standby&load_balance_hosts=random&sslmode=disable"
        return f"postgresql://{self._hosts}/{DATABASE}?{query}"

    @property
    def _hosts(self) -> str:
        return ",".join(f"{HOST}:{node.port}" for node in self.nodes)

    def _url(self, role: str, password: str, database: str = DATABASE) -> str:
        query = "target_session_attrs=read-write&sslmode=disable"
        return f"postgresql://{role}:{password}@{self._hosts}/{database}?{query}"

    # Life.

    async def start(self) -> None:
        """Start etcd and all nodes, and migrate the database."""
        await self._start_etcd()
        for node in self.nodes:
            self._configure(node)
        await asyncio.gather(*map(self.start_node, self.nodes))
        await self.settled()
        async with await psycopg.AsyncConnection.connect(
            self._url(_OWNER, self._passwords[_OWNER], _OWNER), autocommit=True
        ) as connection:
            await connection.execute(f"CREATE DATABASE {DATABASE}".encode())
        await asyncio.to_thread(migrate, self.owner_url, migration_branches(), passwords=self._role_passwords)

    async def _start_etcd(self) -> None:
        client, peer = (f"http://{HOST}:{port}" for port in (self._etcd_port, free_port()))
        with (self._folder / "etcd.log").open("wb") as log:
            self._etcd = await asyncio.create_subprocess_exec(
                *(programs.etcd(), "--name", "etcd", "--data-dir", str(self._folder / "etcd")),
                *("--listen-client-urls", client, "--advertise-client-urls", client),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", f"etcd={peer}"),
                env=programs.environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _configure(self, node: Node) -> None:
        node.folder.mkdir(mode=0o700)
        file = node.folder / "patroni.json"
        login = {name: {"username": name, "password": word} for name, word in self._passwords.items()}
        configuration = {
            "scope": "gatehouse",
            "name": node.name,
            "restapi": {"listen": f"{HOST}:{node.api}", "connect_address": f"{HOST}:{node.api}"},
            "etcd3": {"hosts": f"{HOST}:{self._etcd_port}"},
            "bootstrap": {"dcs": _DCS, "initdb": [{"encoding": "UTF8"}, "no-sync", {"wal-segsize": "1"}]},
            "postgresql": {
                "listen": f"{HOST}:{node.port}",
                "connect_address": f"{HOST}:{node.port}",
                "data_dir": str(node.data),
                "bin_dir": str(programs.postgres()),
                "pgpass": str(node.folder / "pgpass"),
                "authentication": {
                    "superuser": login[_OWNER],
                    "replication": login["replicator"],
                    "rewind": login["rewind_user"],
                },
                "pg_hba": [
                    f"host replication replicator {HOST}/32 scram-sha-256",
                    f"host all all {HOST}/32 scram-sha-256",
                ],
            },
        }
        file.touch(mode=0o600)
        file.write_text(json.dumps(configuration), encoding="utf-8")
        account = find_account()
        for path in (node.folder, file):
            os.chown(path, account.uid, account.gid)

    async def start_node(self, node: Node) -> None:
        """Start Patroni on a node, without waiting for PostgreSQL."""
        with (self._folder / f"{node.name}.log").open("ab") as log:
            node.patroni = await asyncio.create_subprocess_exec(
                *programs.patroni(node.folder / "patroni.json"),
                env=programs.environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def kill_node(self, node: Node) -> None:
        """Kill all processes of a node at once."""
        processes = node.processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if node.patroni is not None:
            await node.patroni.wait()
        await asyncio.to_thread(psutil.wait_procs, processes, 10)

    async def aclose(self) -> None:
        """Kill all processes."""
        for node in self.nodes:
            await self.kill_node(node)
        if self._etcd is not None and self._etcd.returncode is None:
            self._etcd.kill()
            await self._etcd.wait()

    # State.

    async def members(self) -> list[dict[str, Any]]:
        """Return what Patroni says of the nodes; nothing if no node responds."""
        async with httpx.AsyncClient(trust_env=False, timeout=2) as http:
            for node in self.nodes:
                with suppress(httpx.HTTPError, ValueError):
                    members: list[dict[str, Any]] = (
                        await http.get(f"http://{HOST}:{node.api}/cluster")
                    ).json()["members"]
                    return members
        return []

    async def settled(self) -> None:
        """Wait until there are a leader, a synchronous standby and another standby, both on its timeline.

        A standby that does not stream yet may be about to run pg_rewind, which must not be interrupted: what
        it leaves behind does not start again.
        """
        members: list[dict[str, Any]] = []

        async def settled() -> bool:
            members[:] = await self.members()
            states = sorted((one["role"], one["state"]) for one in members)
            return states == _SETTLED and len({one.get("timeline") for one in members}) == 1

        try:
            await eventually(settled, START_SECONDS, 0.2)
        except AssertionError as error:
            logs = [self._folder / f"{node.name}.log" for node in self.nodes]
            ends = [f"{log.name}:\n{_end(log)}" for log in logs]
            raise AssertionError("\n".join([f"the cluster does not settle: {members}", *ends])) from error

    async def with_role(self, role: str) -> Node:
        """Return the node that has a role, such as `leader` or `sync_standby`."""
        names = {member["role"]: member["name"] for member in await self.members()}
        return next(node for node in self.nodes if node.name == names[role])

    async def sql(self, node: Node, statement: str) -> list[Any]:
        """Run a statement on a node as the owner and return its rows."""
        url = f"postgresql://{_OWNER}:{self._passwords[_OWNER]}@{HOST}:{node.port}/{_OWNER}"
        async with await psycopg.AsyncConnection.connect(
            url, connect_timeout=2, autocommit=True
        ) as connection:
            cursor = await connection.execute(statement.encode())
            return await cursor.fetchall() if cursor.description else []

    async def is_writable(self, node: Node) -> bool:
        """Return whether a node accepts changes."""
        try:
            return await self.sql(node, "SELECT pg_is_in_recovery()") == [(False,)]
        except psycopg.Error:
            return False

    async def standbys(self) -> list[Node]:
        """Return all nodes but the leader."""
        leader = await self.with_role("leader")
        return [node for node in self.nodes if node is not leader]

    async def checkpoint(self) -> None:
        """Wait until all standbys report the timeline of the leader: after a restartpoint."""
        timeline = "SELECT timeline_id FROM pg_control_checkpoint()"
        leader = await self.with_role("leader")

        async def report() -> bool:
            found = []
            for node in (leader, *self.nodes):
                try:
                    await self.sql(node, "CHECKPOINT")
                    found.append(await self.sql(node, timeline))
                except psycopg.OperationalError:  # it is starting
                    return False
            return all(each == found[0] for each in found)

        await eventually(report, START_SECONDS, 0.2)

    async def set_synchronous(self, *, synchronous: bool) -> None:
        """Let commits wait for a standby or not, and wait until it applies."""
        content = {"synchronous_mode": synchronous, "synchronous_mode_strict": synchronous}
        leader = await self.with_role("leader")
        async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
            response = await http.patch(f"http://{HOST}:{leader.api}/config", json=content)
        assert response.status_code == httpx.codes.OK, response.text

        async def applies() -> bool:
            ((names,),) = await self.sql(leader, "SHOW synchronous_standby_names")
            return bool(names) == synchronous

        await eventually(applies, START_SECONDS, 0.2)

    async def switch_over(self, leader: Node) -> None:
        """Ask Patroni to make another node the leader, and wait until it has."""
        async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
            response = await http.post(f"http://{HOST}:{leader.api}/switchover", json={"leader": leader.name})
        assert response.status_code == httpx.codes.OK, response.text


def _end(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])


@asynccontextmanager
async def run_cluster() -> AsyncIterator[Cluster]:
    """Run a cluster until the context ends, then delete it."""
    folder = Path(tempfile.mkdtemp(prefix="gh-ha-", dir=temporary_folder(find_account())))
    os.chmod(folder, 0o711)  # noqa: PTH101
    cluster = Cluster(folder)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.aclose()
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
