"""Show the trace of a call: across two services, if one of them calls another, and their SQL."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from rich.padding import Padding

from gatehouse.client.calls import new_trace
from gatehouse.client.traces.spans import Span, tree
from gatehouse_testbed.tour.context import TourContext
from gatehouse_testbed.tracing.query import wait_for_trace
from gatehouse_testbed.tracing.view import trace_view

TRACE_SECONDS = 15.0


async def show_trace(context: TourContext) -> None:
    """Call an RPC and show its trace."""
    if context.profile.traces_url is None:
        context.report.note("skipped: the profile has no traces_url")
        return
    trace_id, traceparent = new_trace()
    service, method, is_complete, content = "users", "CountUsers", has_sql, "UserService and its SQL"
    # <part admin>
    service, method, is_complete = "admin", "GetStats", crosses_services
    content = "AdminService, its call to UserService, and the SQL of both"
    # </part admin>
    outcome = await context.services.call(
        service, method, token=context.token_of("alice"), metadata=[("traceparent", traceparent)]
    )
    context.report.check(f"{method} by alice: {outcome.code.name}", ok=outcome.code is grpc.StatusCode.OK)
    spans = await wait_for_trace(
        context.http, context.profile.traces_url, trace_id, seconds=TRACE_SECONDS, complete=is_complete
    )
    context.report.show(Padding(trace_view(tree(spans)), (1, 0, 0, 0)))
    context.report.check(f"one trace: {content}", ok=is_complete(spans))


def has_sql(spans: Sequence[Span]) -> bool:
    """Return whether a call ran SQL in the trace."""
    return any(span.kind == "server" for span in spans) and any(
        "db.system.name" in span.attributes for span in spans
    )


# <part admin>
def crosses_services(spans: Sequence[Span]) -> bool:
    """Return whether a service called another one in the trace, and both ran SQL."""
    by_id = {span.span_id: span for span in spans}
    hops = {
        (by_id[span.parent_id].service, span.service)
        for span in spans
        if span.kind == "server" and span.parent_id in by_id and by_id[span.parent_id].kind == "client"
    }
    with_sql = {span.service for span in spans if "db.system.name" in span.attributes}
    return any(caller != callee and {caller, callee} <= with_sql for caller, callee in hops)


# </part admin>
