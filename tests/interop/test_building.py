"""What a developer without the other languages sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop.foreign import build_go, build_node
from tests.support.toolchains import Missing


@pytest.mark.parametrize(("name", "build"), [("go", build_go), ("node", build_node)])
def test_missing_language_is_an_error_of_one_line(
    name: str, build: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match=rf"^needs Go 1\.26 and Node 20 or later; `{name}` is not installed$"):
        build()


def test_client_that_cannot_be_built_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    program = tmp_path / "go"
    program.write_text("#!/bin/sh\necho one >&2\necho two >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(Missing, match=r"^`go build -o client \.` failed: one two$"):
        build_go()
    assert list((tmp_path / "cache" / "gatehouse").iterdir()) == []
