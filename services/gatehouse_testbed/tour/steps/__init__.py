"""The steps of the tour, in the order in which they run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gatehouse_testbed.tour.context import Visit
from gatehouse_testbed.tour.steps.metrics import figures
from gatehouse_testbed.tour.steps.outage import outage
from gatehouse_testbed.tour.steps.refusals import matrix, reasons
from gatehouse_testbed.tour.steps.roles import roles
from gatehouse_testbed.tour.steps.tokens import revocation, rotation
from gatehouse_testbed.tour.steps.traces import trace
from gatehouse_testbed.tour.steps.users import import_users, users

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
