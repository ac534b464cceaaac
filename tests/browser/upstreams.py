"""A server with the APIs of Jaeger and Prometheus. Its traces and log lines are those of the test bed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gatehouse.client.traces.jaeger import to_jaeger
from gatehouse.client.traces.spans import Span
from gatehouse_testbed.bed.client import Testbed

_SERVICE = "gatehouse-testbed"


@contextmanager
def serve_upstreams(bed: Testbed, log: Path) -> Iterator[str]:
    """Serve until the context ends.

    Args:
        bed: Has the spans and log lines.
        log: Gets the log lines of each trace that is asked for.

    Yields:
        The URL.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            body = json.dumps(_answer(bed, log, parts.path, query)).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _answer(bed: Testbed, log: Path, path: str, query: dict[str, str]) -> Any:
    if path == "/api/v1/query_range":
        return {
            "data": {"resultType": "matrix", "result": _series(float(query["start"]), float(query["end"]))}
        }
    if path == "/api/services":
        return {"data": [_SERVICE]}
    trace_id = path.removeprefix("/api/traces").strip("/")
    traces: dict[str, list[Span]] = {}
    # Spans are recorded when they end, so a parent comes after its children.
    for number, span in enumerate(reversed(bed.spans(trace_id))):
        duration = max(1, round(span.duration_ms * 1000))
        attributes = span.attributes
        found = Span(
            span.span_id,
            span.parent_id,
            _SERVICE,
            span.name,
            span.kind,
            number,
            duration,
            attributes=attributes,
        )
        traces.setdefault(span.trace_id, []).append(found)
    if trace_id:
        log.write_text("\n".join(json.dumps(dict(line)) for line in bed.logs(trace_id)))
    return {"data": [to_jaeger(*each) for each in list(traces.items())[: int(query.get("limit", "1"))]]}


def _series(start: float, end: float) -> list[dict[str, Any]]:
    labels = ({"rpc_method": f"p.Service/Method{number}", "reason": f"reason{number}"} for number in range(9))
    return [
        {
            "metric": each,
            "values": [
                (start + 10 * step, str(number * step % 7)) for step in range(int(end - start) // 10 + 1)
            ],
        }
        for number, each in enumerate(labels)
    ]
