"""Replay inputs that were found by fuzzing, or that are interesting by themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from gatehouse.oauth import PresentedToken
from tests.fuzz.checks import answering, run, verify
from tests.fuzz.samples import ANSWER, CLAIMS, JWKS, KEY
from tests.fuzz.targets import TARGETS, Target

CORPUS = Path(__file__).resolve().parent / "corpus"
BY_NAME = {target.name: target for target in TARGETS}


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=f"{path.parent.name}/{path.name}") for path in sorted(CORPUS.glob("*/*"))]
)
def test_inputs_of_the_corpus_are_handled(path: Path) -> None:
    BY_NAME[path.parent.name].check(path.read_bytes())


@pytest.mark.parametrize("target", TARGETS, ids=BY_NAME)
def test_generated_inputs_are_handled(target: Target) -> None:
    """A few; `make fuzz` generates many."""

    @settings(
        max_examples=5,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(target.inputs)
    def check(raw: bytes) -> None:
        target.check(raw)

    check()


@pytest.mark.parametrize(("mode", "body"), [("jwt", JWKS), ("introspection", ANSWER)])
def test_what_the_inputs_are_derived_from_is_accepted(mode: str, body: object) -> None:
    """Otherwise all of them would be refused for the same reason."""
    transport = answering(b"200 application/json\n" + json.dumps(body).encode())
    run(verify(mode, PresentedToken(KEY.sign(CLAIMS)), transport))
