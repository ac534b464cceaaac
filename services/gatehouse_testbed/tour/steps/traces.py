"""One call across two services and their SQL, as the traces show it."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from rich.padding import Padding

from gatehouse.client.calls import new_trace
from gatehouse_testbed.tour.context import Visit
from gatehouse_testbed.tracing.query import until_trace
from gatehouse_testbed.tracing.show import trace_view
from gatehouse_testbed.tracing.spans import Span, tree

TRACE_SECONDS = 15.0


async def trace(visit: Visit) -> None:
    """Calls GetStats, and shows what happened on its way."""
    if visit.profile.traces_url is None:
        visit.report.note("left out: the profile has no traces_url")
        return
    trace_id, traceparent = new_trace()
    outcome = await visit.calls.call(
        "admin", "GetStats", token=visit.token_of("alice"), metadata=[("traceparent", traceparent)]
    )
    visit.report.check(f"GetStats by alice: {outcome.code.name}", good=outcome.code is grpc.StatusCode.OK)
    visit.spans = await until_trace(
        visit.http, visit.profile.traces_url, trace_id, seconds=TRACE_SECONDS, whole=crosses_services
    )
    visit.report.show(Padding(trace_view(tree(visit.spans)), (1, 0, 0, 0)))
    visit.report.check(
        "one trace: from AdminService over its client to UserService, and SQL in both",
        good=crosses_services(visit.spans),
    )


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
