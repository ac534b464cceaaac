"""A tour of a running system from the outside, through its public interfaces: what holds, what does not."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio
import httpx
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from gatehouse.app.caller import new_trace
from gatehouse.app.policy import policy_rows
from gatehouse.app.probe import check_health
from gatehouse.app.tokens import decode, issuer_http, open_desk
from gatehouse.demo import callers as who
from gatehouse.demo.callers import Caller, Desk
from gatehouse.demo.errors import DemoError
from gatehouse.demo.figures import Figures, fetch_figures
from gatehouse.demo.files import UserRow, read_users, realm_file, users_file
from gatehouse.demo.issuer_admin import IssuerAdmin
from gatehouse.demo.matrix import SHORT, Calls, Cell, Sample, matrix_view, run_matrix
from gatehouse.demo.query import until_trace
from gatehouse.demo.roles import give_and_take
from gatehouse.demo.show import trace_view
from gatehouse.demo.spans import Span, tree
from gatehouse.demo.stack import until_health
from gatehouse.issuer import Realm, load_realm
from gatehouse.settings import Profile, environment
from gatehouse.users.v1 import users_pb2, users_pb2_grpc

IMPORT_SECONDS = 60.0
HEALTH_SECONDS = 15.0
TRACE_SECONDS = 15.0
ROTATION_SECONDS = 20.0
LOAD_WORKERS = 6
LOAD_CALLS = 60
CALLS_PER_TOKEN = 5
MARGIN_SECONDS = 3.0


class Control(Protocol):
    """What only whoever runs the processes can do."""

    async def stop_database(self) -> None:
        """Stops PostgreSQL; its data stays."""
        ...

    async def start_database(self) -> None:
        """Starts PostgreSQL again."""
        ...


@dataclass(slots=True)
class _State:
    """What one step finds and another needs."""

    callers: list[Caller] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    before: dict[str, Figures] = field(default_factory=dict)

    def caller(self, name: str) -> Caller:
        return next(caller for caller in self.callers if caller.name == name)


class Tour:
    """Runs the steps and keeps what came out otherwise than promised.

    Args:
        profile: The system.
        console: Where it is shown.
        control: Whoever runs the processes; None leaves out the steps that need it.
        users: CSV file of users to import; the repository's when None.
    """

    def __init__(
        self, profile: Profile, console: Console, control: Control | None = None, users: Path | None = None
    ) -> None:
        self.profile = profile
        self.console = console
        self.control = control
        self.users = users
        self.checks = 0
        self.faults: list[str] = []
        self.spans: list[Span] = []
        self._state = _State()
        self._mark = ("✓", "✗") if console.encoding.lower().startswith("utf") else ("ok", "!!")

    async def run(self) -> bool:
        """Runs the tour; returns whether everything was as promised.

        Raises:
            DemoError: It cannot even begin.
            ConfigurationError: The profile lacks something.
            OAuthError: The issuer refuses, or is away.
        """
        realm = load_realm(realm_file(), environment())
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(issuer_http(self.profile))
            desk = Desk(await stack.enter_async_context(open_desk(self.profile)), self.profile, realm)
            calls = await stack.enter_async_context(Calls(self.profile))
            # First, so that it has run out when it is needed.
            brief = await desk.of_client(who.BRIEF)
            self._state.before = await fetch_figures(http, self.profile.metrics)
            steps: list[tuple[str, Callable[[], Awaitable[None]]]] = [
                ("A thousand users arrive in one stream", lambda: self._import_step(calls, desk)),
                ("Every caller at every RPC", lambda: self._matrix(stack, calls, desk, realm, brief)),
                ("Why they were refused", self._reasons),
                ("A token is revoked", lambda: self._revocation(calls, desk)),
                ("A role is given, and taken back", lambda: give_and_take(calls, desk, self._check)),
                ("The signing key is rotated under load", lambda: self._rotation(http, calls, desk)),
                ("The database goes away and comes back", lambda: self._database(calls)),
                ("One call, seen in its trace", lambda: self._trace(http, calls)),
                ("What the services counted", lambda: self._figures(http)),
            ]
            for number, (title, step) in enumerate(steps, 1):
                self.console.print()
                self.console.rule(f"[bold]{number}  {title}", align="left", style="dim")
                try:
                    await step()
                except DemoError as error:
                    self._check(str(error), good=False)
        self._summary(time.monotonic() - began)
        return not self.faults

    # -- what is said

    def _check(self, text: str, *, good: bool) -> None:
        """Says what happened, and whether it should have."""
        self.checks += 1
        if not good:
            self.faults.append(text)
        mark = Text(f"  {self._mark[0]} ", "green") if good else Text(f"  {self._mark[1]} ", "bold red")
        self.console.print(mark.append(text, "" if good else "bold red"))

    def _note(self, text: str) -> None:
        self.console.print(Text(f"    {text}", "dim"))

    def _progress(self, text: str, total: int) -> tuple[Progress, Any]:
        columns = (
            TextColumn("    {task.description}"),
            BarColumn(40),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        # Where there is no terminal, a line that changes would be many lines.
        progress = Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        )
        return progress, progress.add_task(text, total=total)

    def _summary(self, seconds: float) -> None:
        self.console.print()
        self.console.rule(style="dim")
        if not self.faults:
            self.console.print(
                Text(
                    f"  {self._mark[0]} All {self.checks} checks came out as promised, in {seconds:.1f} s.",
                    "bold green",
                )
            )
            return
        self.console.print(
            Text(
                f"  {self._mark[1]} {len(self.faults)} of {self.checks} checks came out otherwise:",
                "bold red",
            )
        )
        for fault in self.faults:
            self.console.print(Text(f"    {fault}"))

    # -- the steps

    async def _import_step(self, calls: Calls, desk: Desk) -> None:
        rows = read_users(self.users or users_file())
        progress, task = self._progress("ImportUsers", len(rows))
        began = time.monotonic()
        with progress:
            answer = await _import(calls, desk, rows, lambda: progress.advance(task))
        seconds = time.monotonic() - began
        there = sum(1 for e in answer.errors if e.status.code == grpc.StatusCode.ALREADY_EXISTS.value[0])
        is_whole = answer.row_count == len(rows) == answer.created_count + answer.failed_count
        self._check(
            f"ImportUsers as {who.CLIENTS[0]}: {answer.row_count} rows, {answer.created_count} created, "
            f"{answer.failed_count} were there already, {seconds:.2f} s",
            good=is_whole and there == len(answer.errors),
        )

    async def _matrix(
        self, stack: AsyncExitStack, calls: Calls, desk: Desk, realm: Realm, brief: str
    ) -> None:
        self._state.callers = await self._callers(stack, desk, realm, brief)
        rows, sample = policy_rows(), await self._sample(calls)
        progress, task = self._progress("calls", len(rows) * len(self._state.callers))
        with progress:
            cells = await run_matrix(
                calls, self._state.callers, rows, sample, lambda n: progress.advance(task, n)
            )
        self._state.cells = cells
        self.console.print(matrix_view(cells, self._state.callers))
        self.console.print()
        for code, text in (
            ("UNAUTH", "UNAUTHENTICATED: no token, or none that counts here"),
            ("DENIED", "PERMISSION_DENIED: a good token that may not do this"),
        ):
            self._note(f"{code}  {text}")
        self._note("! before a code: it is another than the policy promises to this caller")
        self._note("tampered is bob's token with every scope written into it; expired lived for one second")
        for caller in self._state.callers:
            if caller.good:
                self._check_rights(caller)
        differing = [cell for cell in cells if cell.differs]
        for cell in differing:
            self._check(str(cell), good=False)
        if not differing:
            self._check(f"{len(cells)} calls, each answered as the policy promises", good=True)

    def _check_rights(self, caller: Caller) -> None:
        held = " ".join(sorted(caller.scopes)) or "no scope"
        wrong = [f"{s}, which the realm file does not promise" for s in sorted(caller.excess)]
        wrong += [f"not {s}, which the realm file promises" for s in sorted(caller.lack)]
        self._check(
            f"{caller.name} holds {held}" if not wrong else f"{caller.name} holds {'; '.join(wrong)}",
            good=not wrong,
        )

    async def _callers(self, stack: AsyncExitStack, desk: Desk, realm: Realm, brief: str) -> list[Caller]:
        bob, alice, carol = [await desk.user(name) for name in who.USERS]
        clients = [await desk.client(name) for name in who.CLIENTS]
        scopes = [s.name for s in realm.scopes.values() if s.in_token]
        assert bob.token is not None  # noqa: S101 - it was just obtained
        found = [
            Caller("nobody"),
            Caller("expired", brief),
            Caller("wrong audience", await desk.of_client(who.ELSEWHERE)),
            Caller("wrong issuer", await who.wrong_issuer_token(stack, realm)),
            Caller("tampered", who.tampered(bob.token, scopes)),
            bob,
            alice,
            carol,
            *clients,
        ]
        await desk.until_inactive(brief, who.EXPIRY_SECONDS)
        return found

    async def _sample(self, calls: Calls) -> Sample:
        token = self._state.caller("alice").token
        outcome = await calls.call("users", "ListUsers", [{"page_size": 1}], token=token)
        if outcome.code is not grpc.StatusCode.OK or not outcome.answers[0].users:
            raise DemoError(
                f"ListUsers by alice: {outcome.code.name} {outcome.message}; the tour needs a user"
            )
        user = outcome.answers[0].users[0]
        return Sample(user.user_id, user.email, user.display_name)

    async def _reasons(self) -> None:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
        for head in ("caller", "RPC", "code", "reason (ErrorInfo)", "www-authenticate (RFC 6750)"):
            table.add_column(head, overflow="fold")
        seen = set()
        refused = [cell for cell in self._state.cells if cell.outcome.code is not grpc.StatusCode.OK]
        for cell in refused:
            outcome = cell.outcome
            if (outcome.code, outcome.reason) in seen:
                continue
            seen.add((outcome.code, outcome.reason))
            code = SHORT.get(outcome.code, outcome.code.name)
            table.add_row(cell.caller.name, cell.row.method, code, outcome.reason, outcome.challenge)
        self.console.print(table)
        self.console.print()
        told = sum(1 for cell in refused if cell.outcome.reason and cell.outcome.challenge)
        self._check(
            f"{told} of {len(refused)} refusals say why, and what would be enough", good=told == len(refused)
        )

    async def _revocation(self, calls: Calls, desk: Desk) -> None:
        token = await desk.of_user("alice")
        budget = self.profile.revocation_budget_seconds
        sample = await self._sample(calls)
        before = await calls.call("users", "CountUsers", token=token)
        self._check(
            f"CountUsers with a new token of alice: {before.code.name}",
            good=before.code is grpc.StatusCode.OK,
        )
        await desk.tokens.revoke(token)
        began = time.monotonic()
        change = {"user_id": sample.user_id, "revoke_roles": ["tour-nobody-holds-this"]}
        online = await calls.call("admin", "ManageRoles", [change], token=token)
        self._check(
            f"revoked; the next call, ManageRoles, whose rule asks the issuer online: {online.code.name} "
            f"({online.reason})",
            good=online.code is grpc.StatusCode.UNAUTHENTICATED,
        )
        while True:
            after = await calls.call("users", "CountUsers", token=token)
            seconds = time.monotonic() - began
            if after.code is not grpc.StatusCode.OK or seconds > budget + MARGIN_SECONDS:
                break
            await asyncio.sleep(0.05)
        self._check(
            f"CountUsers, whose rule lets an answer serve again for {budget:g} s: {after.code.name} after "
            f"{seconds:.1f} s",
            good=after.code is grpc.StatusCode.UNAUTHENTICATED,
        )

    async def _rotation(self, http: httpx.AsyncClient, calls: Calls, desk: Desk) -> None:
        if self.profile.issuer_admin_password is None:
            self._note("left out: the profile has no issuer_admin_password")
            return
        async with _load(calls, desk) as load:
            await load.until(lambda: load.calls >= LOAD_CALLS)
            known = set(load.keys)
            await IssuerAdmin(http, self.profile).add_signing_key()
            await load.until(lambda: sum(n for key, n in load.keys.items() if key not in known) >= LOAD_CALLS)
        fresh = sum(n for key, n in load.keys.items() if key not in known)
        self._check(
            f"{load.calls} calls by {LOAD_WORKERS} callers, {fresh} of them with tokens of the new key",
            good=fresh >= LOAD_CALLS,
        )
        failed = ", ".join(f"{n} {reason}" for reason, n in load.failures.items()) or "none failed"
        self._check(failed, good=not load.failures)

    async def _database(self, calls: Calls) -> None:
        if self.control is None:
            self._note("left out: the tour does not run the database here; `gatehouse demo` shows it")
            return
        token = self._state.caller("alice").token
        began = time.monotonic()
        await self.control.stop_database()
        try:
            await until_health(self.profile, "users", serving=False, seconds=HEALTH_SECONDS)
            self._check(
                f"stopped; UserService says NOT_SERVING after {time.monotonic() - began:.1f} s", good=True
            )
            outcome = await calls.call("users", "CountUsers", token=token, timeout=3.0)
            self._check(
                f"a call: {outcome.code.name}: {outcome.message}",
                good=outcome.code is grpc.StatusCode.UNAVAILABLE,
            )
            asked = await asyncio.to_thread(check_health, self.profile, ["users"], "liveness", 3.0)
            alive = asked["users"]
            self._check(
                f"its liveness: {alive}, so that nobody restarts it for this", good=alive == "SERVING"
            )
        finally:
            began = time.monotonic()
            await self.control.start_database()
        for service in ("users", "admin", "public"):
            await until_health(self.profile, service, serving=True, seconds=HEALTH_SECONDS)
        self._check(f"started; all three services SERVING after {time.monotonic() - began:.1f} s", good=True)
        outcome = await calls.call("users", "CountUsers", token=token)
        self._check(f"a call: {outcome.code.name}", good=outcome.code is grpc.StatusCode.OK)

    async def _trace(self, http: httpx.AsyncClient, calls: Calls) -> None:
        if self.profile.traces_url is None:
            self._note("left out: the profile has no traces_url")
            return
        trace_id, traceparent = new_trace()
        outcome = await calls.call(
            "admin",
            "GetStats",
            token=self._state.caller("alice").token,
            metadata=[("traceparent", traceparent)],
        )
        self._check(f"GetStats by alice: {outcome.code.name}", good=outcome.code is grpc.StatusCode.OK)
        spans = await until_trace(
            http, self.profile.traces_url, trace_id, seconds=TRACE_SECONDS, whole=crosses_services
        )
        self.console.print()
        self.spans = spans
        self.console.print(trace_view(tree(spans)))
        self.console.print()
        self._check(
            "one trace: from AdminService over its client to UserService, and SQL in both",
            good=crosses_services(spans),
        )

    async def _figures(self, http: httpx.AsyncClient) -> None:
        if not self.profile.metrics:
            self._note("left out: the profile has no metrics")
            return
        after = await fetch_figures(http, self.profile.metrics)
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), show_edge=False)
        table.add_column("service")
        heads = ("calls", "OK", "refused", "cache hits", "introspections", "key fetches")
        for head in heads:
            table.add_column(head, justify="right")
        denials: Counter[str] = Counter()
        total: Counter[str] = Counter()
        for name, figures in after.items():
            found = figures.since(self._state.before.get(name, Figures()))
            denials += found.denials
            row = dict(
                zip(
                    heads,
                    (
                        found.calls.total(),
                        found.calls["OK"],
                        found.denials.total(),
                        found.verifications["cache"],
                        found.verifications["introspection"],
                        found.key_fetches.total(),
                    ),
                    strict=True,
                )
            )
            total += Counter(row)
            table.add_row(name, *(f"{row[head]:,}" for head in heads))
        table.add_section()
        table.add_row("all", *(f"{total[head]:,}" for head in heads), style="bold")
        self.console.print(table)
        self.console.print()
        self._note("refused: " + ", ".join(f"{n} {reason}" for reason, n in denials.most_common()))


def crosses_services(spans: Sequence[Span]) -> bool:
    """Whether a trace goes from one service over its client span to another, with SQL in both."""
    at = {span.span_id: span for span in spans}
    hops = {
        (at[span.parent_id].service, span.service)
        for span in spans
        if span.kind == "server" and span.parent_id in at and at[span.parent_id].kind == "client"
    }
    with_sql = {span.service for span in spans if "db.system.name" in span.attributes}
    return any(one != other and {one, other} <= with_sql for one, other in hops)


async def import_users(profile: Profile) -> None:
    """Imports the repository's users into a system, as its worker.

    Raises:
        DemoError: It is refused.
    """
    realm = load_realm(realm_file(), environment())
    async with open_desk(profile) as tokens, Calls(profile) as calls:
        await _import(calls, Desk(tokens, profile, realm), read_users(users_file()), lambda: None)


async def _import(
    calls: Calls, desk: Desk, rows: Sequence[UserRow], told: Callable[[], None]
) -> users_pb2.ImportUsersResponse:
    token = await desk.of_client(who.CLIENTS[0])
    stub: Any = users_pb2_grpc.UserServiceStub(calls.channel("users"))

    async def stream() -> AsyncIterator[users_pb2.ImportUsersRequest]:
        for row in rows:
            yield users_pb2.ImportUsersRequest(
                row_number=row.number, email=row.email, display_name=row.display_name
            )
            told()

    metadata = (("authorization", f"Bearer {token}"),)
    try:
        answer: users_pb2.ImportUsersResponse = await stub.ImportUsers(
            stream(), metadata=metadata, timeout=IMPORT_SECONDS
        )
    except grpc.aio.AioRpcError as error:
        raise DemoError(f"ImportUsers: {error.code().name}: {error.details()}") from None
    return answer


class _Load:
    """Callers that call all the time, each with a new token every few calls."""

    def __init__(self, calls: Calls, desk: Desk) -> None:
        self._calls = calls
        self._desk = desk
        self._moved = asyncio.Event()
        self.ended = False
        self.calls = 0
        self.keys: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    async def work(self) -> None:
        """Calls until `ended` is set, so that none is cut off."""
        while not self.ended:
            token = await self._desk.of_client(who.CLIENTS[0])
            key = str(decode(token)["header"].get("kid"))
            for _ in range(CALLS_PER_TOKEN):
                outcome = await self._calls.call("users", "CountUsers", token=token)
                self.calls += 1
                if outcome.code is grpc.StatusCode.OK:
                    self.keys[key] += 1
                else:
                    self.failures[f"{outcome.code.name} {outcome.reason}"] += 1
                self._moved.set()

    async def until(self, reached: Callable[[], bool]) -> None:
        """Waits until so much has happened, for ROTATION_SECONDS at most."""
        try:
            async with asyncio.timeout(ROTATION_SECONDS):
                while not reached():
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            return


@asynccontextmanager
async def _load(calls: Calls, desk: Desk) -> AsyncIterator[_Load]:
    load = _Load(calls, desk)
    tasks = [asyncio.create_task(load.work()) for _ in range(LOAD_WORKERS)]
    try:
        yield load
    finally:
        load.ended = True
        await asyncio.gather(*tasks)
