"""A call as server-sent events, so that its page shows responses when they arrive."""

from __future__ import annotations

from collections.abc import AsyncIterator

import jinja2
from starlette.responses import Response, StreamingResponse

from gatehouse_console.calls.result import result_of
from gatehouse_console.calls.run import Run
from gatehouse_console.calls.runs import Runs

_ALIVE_SECONDS = 15.0


def event_stream(templates: jinja2.Environment, runs: Runs, run: Run, after: int) -> Response:
    """Return the responses of a call after a number, and how it ended, as fragments of HTML.

    Args:
        templates: Templates of the console.
        runs: Counts the pages that are updated live.
        run: The call.
        after: Number of the last response that the page has.
    """

    async def events() -> AsyncIterator[str]:
        last = after
        with runs.following(run):
            while True:
                for response in list(run.responses):
                    if response.number > last:
                        last = response.number
                        html = templates.get_template("call_response.html").render(response=response)
                        yield _event("response", html, last)
                if run.outcome is not None and last >= run.count:
                    outcome = templates.get_template("call_outcome.html")
                    yield _event("end", outcome.render(run=run, result=result_of(run)), last)
                    return
                await run.wait(_ALIVE_SECONDS)
                yield ":\n\n"  # shows a connection that is lost

    # Proxies such as nginx would wait for the end.
    return StreamingResponse(events(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _event(kind: str, data: str, number: int) -> str:
    lines = "".join(f"data: {line}\n" for line in data.splitlines())
    return f"event: {kind}\nid: {number}\n{lines}\n"
