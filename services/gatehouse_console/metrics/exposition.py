"""The samples that queries need, from the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from gatehouse_console.metrics.queries import Kind, Query, is_usable

MAX_SERIES = 2_000
MAX_CHARS = 1024 * 1024
# The parser needs quadratic time for a line.
MAX_LINE_CHARS = 2_000

Samples = dict[Query, dict[tuple[str, ...], float]]
"""Values by query, and by the values of its labels."""


def parse_samples(text: str, queries: Sequence[Query]) -> Samples:
    """Return the samples of one process.

    Args:
        text: Response of its endpoint.
        queries: What is needed; see Query.samples.

    Raises:
        ValueError: It is not in the text format.
    """
    by_metric: dict[str, list[Query]] = {}
    for query in queries:
        by_metric.setdefault(query.metric, []).append(query)
    found: Samples = {query: {} for query in queries}
    count = 0
    for sample in _samples(text, by_metric):
        for query in by_metric.get(sample.name, ()):
            if not query.accepts(sample.labels) or not is_usable(sample.value):
                continue
            key = tuple(sample.labels.get(name, "") for name in query.by)
            values = found[query]
            if key not in values:
                count += 1
                if count > MAX_SERIES:
                    raise ValueError(f"more than {MAX_SERIES} series")
            before = values.get(key, 0.0)
            values[key] = max(before, sample.value) if query.kind is Kind.MAX else before + sample.value
    return found


def _samples(text: str, names: Mapping[str, object]) -> Iterator[Sample]:
    if len(text) > MAX_CHARS:
        raise ValueError(f"more than {MAX_CHARS} characters")
    # Parsing takes longest, so lines of other metrics are left out first.
    lines = [line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] in names]
    if any(len(line) > MAX_LINE_CHARS for line in lines):
        raise ValueError(f"a line of more than {MAX_LINE_CHARS} characters")
    try:
        for family in text_string_to_metric_families("\n".join([*lines, ""])):
            yield from family.samples
    except (ValueError, IndexError, KeyError, TypeError) as error:  # the parser trusts its input
        raise ValueError("not the text format of Prometheus") from error
