"""The page of metrics, at servers whose answers a test makes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from urllib.parse import parse_qs

import httpx
import pytest

from gatehouse.app.policy import policy_rows
from gatehouse.client.profile import Profile
from gatehouse.client.upstream import MAX_BODY_BYTES, Upstream
from gatehouse_console.metrics.charts import draw_chart, nice_ceiling
from gatehouse_console.metrics.exposition import MAX_CHARS, MAX_LINE_CHARS, MAX_SERIES, parse_samples
from gatehouse_console.metrics.history import History, evaluate, quantile_of
from gatehouse_console.metrics.panels import PANELS
from gatehouse_console.metrics.prometheus import MAX_LINES, promql
from gatehouse_console.metrics.queries import Condition, Grid, Kind, Line, Query
from gatehouse_console.metrics.scraper import Scraper
from gatehouse_console.text import duration_text, number_text
from tests.console.browser import Browser
from tests.console.conftest import open_console
from tests.support.eventually import eventually
from tests.support.loopback_http import LoopbackServer, Reply, Request
from tests.support.telemetry import MetricsReader

HTML = "<script>alert(1)</script>"
RANGE = "/api/v1/query_range"
RPC = policy_rows()[0].name
CALLS = Query(Kind.RATE, "calls_total", ("rpc",))


@pytest.fixture
async def server() -> AsyncIterator[LoopbackServer]:
    """A server with neither the API of Prometheus nor metrics."""
    server = LoopbackServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def at_prometheus(stack: AsyncExitStack, profile: Profile, server: LoopbackServer) -> Browser:
    """A signed-in browser of a console with a Prometheus."""
    configured = profile.model_copy(update={"prometheus_url": server.base_url})
    browser = (await open_console(stack, configured))()
    await browser.sign_in(return_to="/token")
    return browser


def matrix(*series: tuple[dict[str, str], list[tuple[float, str]]]) -> Reply:
    """Return an answer of Prometheus."""
    result = [{"metric": labels, "values": values} for labels, values in series]
    return Reply({"status": "success", "data": {"resultType": "matrix", "result": result}})


def asked(request: Request) -> dict[str, str]:
    """Return the query string of a request."""
    return {name: values[0] for name, values in parse_qs(request.query).items()}


async def test_charts_show_what_prometheus_answers(at_prometheus: Browser, server: LoopbackServer) -> None:
    def answer(request: Request) -> Reply:
        query = asked(request)
        end = float(query["end"])
        if "denials" in query["query"]:
            return matrix(
                ({"reason": "token_missing"}, [(end - 20, "0.5"), (end - 10, "NaN"), (end, "0.25")]),
                ({"reason": "never"}, [(end, "0")]),
            )
        return matrix()

    server.answer(RANGE, answer)
    text = " ".join((await at_prometheus.get("/metrics")).text.split())
    assert f"From Prometheus at {server.base_url}." in text
    assert '<span>token_missing</span></div></th><td class="number">15</td><td class="number">30</td>' in text
    assert 'aria-label="Denials by reason per minute; highest: token_missing with 30"' in text
    assert "No call was denied." not in text
    assert "never" not in text
    assert "No token was verified." in text
    assert server.request_count(RANGE) == len(PANELS)
    assert "style=" not in text  # the content security policy forbids it


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            Query(
                Kind.RATE,
                "c",
                ("a", "b"),
                (Condition("m", ("p.S/A", "p.S/B")), Condition("s", ("OK",), accept=False)),
            ),
            'sum by (a, b) (rate(c{m=~"p[.]S/A|p[.]S/B", s!~"OK"}[120s]))',
        ),
        (Query(Kind.MAX, "g"), "max by () (g{})"),
        (Query(Kind.SUM, "g", ("a",)), "sum by (a) (g{})"),
        (
            Query(Kind.QUANTILE, "h_bucket", ("a",), quantile=0.95),
            "histogram_quantile(0.95, sum by (a, le) (rate(h_bucket{}[120s])))",
        ),
    ],
)
def test_queries_in_promql(query: Query, expected: str) -> None:
    assert promql(query) == expected


UNUSABLE = [
    (Reply(b"<html>"), "not a Prometheus"),
    (Reply({"status": "error", "error": HTML}), "not a Prometheus"),
    (Reply({"data": {"resultType": "vector", "result": []}}), "not a Prometheus"),
    (
        Reply({"data": {"resultType": "matrix", "result": [{"metric": {}, "values": [[1, "x"]]}]}}),
        "not a Prometheus",
    ),
    (Reply(b"[" * 100_000), "not a Prometheus"),
    (Reply(b" " * (MAX_BODY_BYTES + 1)), "more than 8388608 bytes"),
    (Reply(status=404), "not a Prometheus"),
    (Reply(status=503, body=HTML.encode()), "HTTP 503"),
    (Reply(hang_up=True), "the connection was closed, or the response is not HTTP"),
]


async def test_unusable_answer_is_named_once_and_the_page_stays(
    at_prometheus: Browser, server: LoopbackServer
) -> None:
    for reply, message in UNUSABLE:
        server.answer(RANGE, reply)
        page = await at_prometheus.get("/metrics")
        problem = f'role="alert">{server.base_url}: {message}; check `prometheus_url` in the profile</p>'
        assert (page.status_code, page.text.count(problem)) == (200, 1), message
        assert "Sign out" in page.text
        assert "<script>" not in page.text


async def test_prometheus_that_does_not_respond_is_named_within_seconds(
    at_prometheus: Browser, server: LoopbackServer
) -> None:
    server.hold(RANGE)
    assert "no response in time" in (await at_prometheus.get("/metrics")).text


async def test_hostile_series_are_bounded_text(at_prometheus: Browser, server: LoopbackServer) -> None:
    def answer(request: Request) -> Reply:
        end = float(asked(request)["end"])
        points = [
            (end, "1e308"),
            (end - 30, "1e15"),
            (1e300, "1"),
            (-1.0, "1"),
            (end - 10, "-Inf"),
            (end - 20, "-1"),
        ]
        labels = [
            {"reason": f"{HTML}{n}", "rpc_method": HTML, "source": "s" * 5000} for n in range(MAX_LINES + 9)
        ]
        return matrix(*((each, points) for each in labels))

    server.answer(RANGE, answer)
    page = await at_prometheus.get("/metrics")
    assert (page.status_code, "<script>" in page.text, len(page.content) < 200_000) == (200, False, True)
    assert "&lt;script&gt;" in page.text
    assert f"{MAX_LINES - 8} more" in page.text


async def test_page_says_how_to_configure_metrics(browser: Browser) -> None:
    page = await browser.sign_in(return_to="/metrics")
    assert "Set <code>prometheus_url</code> in the profile" in page.text


async def test_page_is_for_users_who_are_signed_in(browser: Browser) -> None:
    assert (await browser.get("/metrics")).status_code == 401


# The endpoints of the services.


async def test_console_reads_the_endpoints_of_the_services(
    stack: AsyncExitStack, profile: Profile, server: LoopbackServer, metrics: MetricsReader
) -> None:
    connections = metrics.meter.create_gauge("gatehouse.database.connections")
    connections.set(7, {"service": HTML})
    server.answer("/metrics", Reply(metrics.as_text().encode()))
    server.answer("/other", Reply(b"{}"))
    endpoints = {name: f"{server.base_url}/{name}" for name in ("metrics", "other", "missing")}
    browser = (await open_console(stack, profile.model_copy(update={"metrics": endpoints})))()
    await browser.sign_in(return_to="/token")

    async def shows() -> str:
        text = (await browser.get("/metrics")).text
        return " ".join(text.split()) if "&lt;script&gt;" in text and "missing: " in text else ""

    text = await eventually(shows)
    assert "From the endpoints of metrics, other, missing, every 5 s." in text
    assert '<td class="number">7</td>' in text
    assert f"missing: {server.base_url}/missing: HTTP 404; check `metrics` in the profile" in text
    assert "<script>" not in text


def scraper_of(server: LoopbackServer, http: httpx.AsyncClient, now: list[float]) -> Scraper:
    target = Upstream(http, server.url("metrics"), "`metrics` in the profile")
    return Scraper({"one": target}, [CALLS], 600, now=lambda: now[0])


async def test_rate_is_the_increase_since_the_first_scrape_across_restarts(server: LoopbackServer) -> None:
    now = [1000.0]
    async with httpx.AsyncClient(trust_env=False) as http:
        scraper = scraper_of(server, http, now)

        async def scrape(body: str) -> float | None:
            server.answer("metrics", Reply(body.encode()))
            await scraper.scrape()
            (line,) = (await scraper.read([CALLS], Grid(now[0], 5, 1))).lines[CALLS] or [Line((), [None])]
            now[0] += 5
            return None if line.values[0] is None else line.values[0] * scraper.rate_seconds

        assert await scrape('calls_total{rpc="a"} 100\n') == 0  # before the console was started
        assert await scrape('calls_total{rpc="a",more="x"} 100\ncalls_total{rpc="a",more="y"} 3\n') == 3
        assert await scrape('calls_total{rpc="a"} 2\n') == 5  # the process began again
        now[0] += 3600
        assert await scrape('calls_total{rpc="a"} 2\n') == 0


async def test_endpoint_that_fails_is_a_problem_until_it_works(server: LoopbackServer) -> None:
    now = [0.0]
    too_many = "".join(f'calls_total{{rpc="{n}"}} 1\n' for n in range(MAX_SERIES + 1))
    broken = [
        (Reply(b"\xff"), "not UTF-8"),
        (Reply(b'calls_total{rpc="a 1\n'), "not the text format of Prometheus"),
        (Reply(b"calls_total{\n"), "not the text format of Prometheus"),
        (Reply(b"calls_total x\n"), "not the text format of Prometheus"),
        (Reply(b'calls_total{rpc="\\'), "not the text format of Prometheus"),
        (Reply(too_many.encode()), f"more than {MAX_SERIES} series"),
        (Reply(b"calls_total 1\n" * MAX_CHARS), f"more than {MAX_BODY_BYTES} bytes"),
        (Reply(b"#" * (MAX_CHARS + 1)), f"more than {MAX_CHARS} characters"),
        (Reply(b"calls_total{" + b'a="1",' * 100_000), f"a line of more than {MAX_LINE_CHARS} characters"),
        (Reply(status=404), "HTTP 404"),
        (Reply(status=500), "HTTP 500"),
        (Reply(hang_up=True), "the connection was closed, or the response is not HTTP"),
    ]
    async with httpx.AsyncClient(trust_env=False) as http:
        scraper = scraper_of(server, http, now)
        for reply, message in broken:
            server.answer("metrics", reply)
            await scraper.scrape()
            (problem,) = (await scraper.read([CALLS], Grid(0, 5, 2))).problems
            assert problem == f"one: {server.url('metrics')}: {message}; check `metrics` in the profile"
            server.answer("metrics", Reply(b'calls_total{rpc="a"} NaN\ncalls_total{rpc="b"} 1\n'))
            await scraper.scrape()
            assert (await scraper.read([CALLS], Grid(0, 5, 2))).problems == []


def test_values_of_processes_are_added_and_unknown_after_a_while() -> None:
    gauge, shared = Query(Kind.SUM, "g"), Query(Kind.MAX, "g")
    one, two = History(10, 15), History(10, 15)
    one.add(0, {gauge: {(): 1.0}, shared: {(): 1.0}})
    two.add(20, {gauge: {(): 2.0}, shared: {(): 2.0}})
    two.add(25, {gauge: {(): 5.0}, shared: {(): 5.0}})
    one.add(25, {gauge: {(): 4.0}, shared: {(): 4.0}})
    grid = Grid(45, 5, 10)
    (total,), (largest,) = (evaluate([one, two], query, grid, 60) for query in (gauge, shared))
    assert total.values == [1, 1, 1, 1, 2, 9, 9, 9, 9, None]
    assert largest.values == [1, 1, 1, 1, 2, 5, 5, 5, 5, None]


def test_history_is_bounded() -> None:
    history = History(3, 15)
    for second in range(10):
        history.add(second, {CALLS: {("a",): float(second)}})
    assert history.at(CALLS, 6) is None
    assert history.increase(CALLS, 9, 60) == {("a",): 2}


def test_quantiles_are_those_of_the_new_observations() -> None:
    query = Query(Kind.QUANTILE, "h_bucket", ("rpc",), quantile=0.5)
    history = History(10, 15)
    for second, counts in enumerate([(100, 100, 100), (100, 104, 104), (100, 104, 104)]):
        values: dict[tuple[str, ...], float] = {
            ("a", bound): float(count) for bound, count in zip(("1", "2", "+Inf"), counts, strict=True)
        }
        history.add(second, {query.samples: values | {("a", "x"): 1.0}})
    (line,) = evaluate([history], query, Grid(1, 1, 2), 1)
    assert (line.labels, line.values) == (("a",), [None, 1.5])


@pytest.mark.parametrize(
    ("counts", "quantile", "expected"),
    [
        ((0, 0, 0), 0.5, None),
        ((10, 10, 10), 0.5, 0.5),
        ((0, 10, 10), 0.95, 1.95),
        ((0, 0, 10), 0.5, 2),
        ((5, 5, 10), 0.95, 2),
    ],
)
def test_quantile_of_a_histogram(counts: tuple[int, ...], quantile: float, expected: float | None) -> None:
    assert quantile_of(list(zip((1.0, 2.0, float("inf")), counts, strict=True)), quantile) == expected


def test_samples_are_those_that_queries_accept() -> None:
    text = (
        '# HELP c_total x\n# TYPE c_total counter\nc_total{a="1",b="x"} 1\nc_total{a="1",b="y"} 2\n'
        'c_total{a="2",b="y"} 4\nc_total{a="1",b="z"} +Inf\nother{a="1"} 8\n'
    )
    by_a = Query(Kind.RATE, "c_total", ("a",), (Condition("b", ("y",)),))
    not_y = Query(Kind.MAX, "c_total", (), (Condition("b", ("y",), accept=False),))
    assert parse_samples(text, [by_a, not_y]) == {by_a: {("1",): 2, ("2",): 4}, not_y: {(): 1}}


def test_chart_has_gaps_and_the_highest_lines_first() -> None:
    panel = next(each for each in PANELS if each.title == "Denials by reason")
    lines = [Line((f"r{n}",), [None, n / 60, None, n / 60, n / 120]) for n in range(11)]
    chart = draw_chart(panel, [*lines, Line(("unknown",), [None] * 5)])
    assert [curve.label for curve in chart.curves] == [f"r{n}" for n in range(10, 2, -1)]
    assert (chart.hidden, chart.ticks) == (2, ["10", "5", "0"])
    assert chart.curves[0].path == "M150.0 0.0h.1M450.0 0.0h.1L600.0 75.0"
    assert (chart.curves[0].now, chart.curves[0].highest) == ("5", "10")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, 1), (-1, 1), (1, 1), (1.1, 2), (2.1, 2.5), (9, 10), (0.03, 0.05), (1e300, 1e300)],
)
def test_axis_ends_at_a_round_number(value: float, expected: float) -> None:
    assert nice_ceiling(value) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 ms"),
        (0.000083, "0.083 ms"),
        (0.0123, "12.3 ms"),
        (0.5, "500 ms"),
        (1, "1 s"),
        (12_345, "12,345 s"),
    ],
)
def test_durations_have_a_suitable_unit(seconds: float, expected: str) -> None:
    assert duration_text(seconds) == expected


def test_numbers_have_about_three_digits() -> None:
    assert [number_text(value) for value in (0, 0.1234, 1.234, 12.34, 123.4, 100)] == [
        "0",
        "0.123",
        "1.23",
        "12.3",
        "123",
        "100",
    ]
