"""The steps of the tour, in order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gatehouse_testbed.tour.context import TourContext
from gatehouse_testbed.tour.steps.cleanup import remove_users
from gatehouse_testbed.tour.steps.database import restart_database
from gatehouse_testbed.tour.steps.matrix import call_matrix, explain_denials
from gatehouse_testbed.tour.steps.metrics import show_metrics

# <part admin>
from gatehouse_testbed.tour.steps.roles import change_role

# </part admin>
from gatehouse_testbed.tour.steps.rotation import rotate_key
from gatehouse_testbed.tour.steps.tokens import revoke_token
from gatehouse_testbed.tour.steps.traces import show_trace
from gatehouse_testbed.tour.steps.users import import_users

STEPS: tuple[tuple[str, Callable[[TourContext], Awaitable[None]]], ...] = (
    ("Import 1,000 users over one stream", import_users),
    ("Call every RPC as every caller", call_matrix),
    ("See why calls were denied", explain_denials),
    ("Revoke a token", revoke_token),
    # <part admin>
    ("Grant a role and revoke it", change_role),
    # </part admin>
    ("Rotate the signing key under load", rotate_key),
    ("Stop the database and start it again", restart_database),
    ("Follow one call in its trace", show_trace),
    ("Read the metrics", show_metrics),
    ("Remove what this tour created", remove_users),
)

__all__ = ["STEPS"]
