"""A unary call as the user who is signed in, and what its page shows of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import text_format
from google.protobuf.message import Message

from gatehouse.app.policy import PolicyRow, policy_rows
from gatehouse.app.services import SERVICES
from gatehouse.client.calls import Outcome, call_once, new_trace, open_channel
from gatehouse.client.requests import find_method
from gatehouse_console.challenges import explain_challenge
from gatehouse_console.sessions import Session
from gatehouse_console.site import Site
from gatehouse_console.traces.calls import TracedCall

CALL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended.

    Attributes:
        row: The RPC and its rule.
        target: Where its service is.
        outcome: Its status.
        trace_id: Id of its trace, "" if there is none.
    """

    row: PolicyRow
    target: str
    outcome: Outcome
    trace_id: str

    @property
    def ok(self) -> bool:
        """Whether the call succeeded."""
        return self.outcome.code is grpc.StatusCode.OK

    @property
    def response(self) -> Any:
        """The response of a call that succeeded."""
        return self.outcome.responses[0]

    @property
    def is_outage(self) -> bool:
        """Whether the service did not decide about the call."""
        return self.outcome.code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}

    @property
    def challenge(self) -> str:
        """Its challenge in words, "" if it has none."""
        return explain_challenge(self.outcome.challenge)

    @property
    def rule(self) -> str:
        """The rule as it is in the proto."""
        return proto_rule(self.row)


async def ask(site: Site, session: Session, service: str, method: str, *requests: Message) -> Answer:
    """Call an RPC with the token of a session.

    Args:
        site: The console.
        session: Who calls.
        service: Name of the service, such as `users`.
        method: Name of the RPC.
        requests: The request; any number of them for a client stream.

    Raises:
        SignInRequired: The issuer has ended the login.
        Problem: The issuer does not respond.
    """
    token = await site.token(session)
    row = next(row for row in policy_rows() if (row.service, row.method) == (service, method))
    trace_id, traceparent = new_trace() if site.profile.traces_url else ("", "")
    started = time.monotonic()
    async with open_channel(site.profile, service) as channel:
        outcome = await call_once(
            channel,
            find_method(SERVICES[service].descriptor, method),
            requests,
            token=token,
            timeout=CALL_SECONDS,
            metadata=[("traceparent", traceparent)] if traceparent else (),
        )
    seconds = time.monotonic() - started
    site.calls.add(session, TracedCall(row.name, outcome.code.name, seconds, time.time(), trace_id))
    return Answer(row, site.profile.targets[service], outcome, trace_id)


def proto_rule(row: PolicyRow) -> str:
    """Return the rule of an RPC as it is in the proto."""
    rule = text_format.MessageToString(row.rule.to_proto(), as_one_line=True)
    return f"option (gatehouse.authz.v1.access) = {{ {rule.strip()} }};"
