"""The steps of the tour, in the order in which they run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gatehouse.demo.steps.figures import figures
from gatehouse.demo.steps.outage import outage
from gatehouse.demo.steps.refusals import matrix, reasons
from gatehouse.demo.steps.roles import roles
from gatehouse.demo.steps.tokens import revocation, rotation
from gatehouse.demo.steps.traces import trace
from gatehouse.demo.steps.users import import_users, users
from gatehouse.demo.visit import Visit

STEPS: tuple[tuple[str, Callable[[Visit], Awaitable[None]]], ...] = (
    ("A thousand users arrive in one stream", users),
    ("Every caller at every RPC", matrix),
    ("Why they were refused", reasons),
    ("A token is revoked", revocation),
    ("A role is given, and taken back", roles),
    ("The signing key is rotated under load", rotation),
    ("The database goes away and comes back", outage),
    ("One call, seen in its trace", trace),
    ("What the services counted", figures),
)

__all__ = ["STEPS", "import_users"]
