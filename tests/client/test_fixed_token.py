"""Tokens that something else obtains: fixed ones and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from gatehouse.client import FileToken, StaticToken, TokenFileError
from tests.support.oauth_issuers import ManualTime


async def test_static_token_is_always_the_same() -> None:
    source = StaticToken("abc")
    source.invalidate("abc")
    assert await source.token() == "abc"


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "Bearer canary"])
def test_static_token_that_cannot_be_sent_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="not a bearer token") as caught:
        StaticToken(token)
    assert "canary" not in str(caught.value)


async def test_file_is_read_again_when_it_changes(tmp_path: Path, manual_time: ManualTime) -> None:
    """As Kubernetes does it: a link to a folder is replaced."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(f"{name}\n")
    link = tmp_path / "data"
    link.symlink_to("one")
    source = FileToken(link / "token", monotonic=manual_time.monotonic)
    assert await source.token() == "one"
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").replace(link)
    manual_time.advance(1.0)
    assert await source.token() == "two"


async def test_last_token_is_used_while_the_file_is_unusable(tmp_path: Path, manual_time: ManualTime) -> None:
    path = tmp_path / "token"
    path.write_text("one")
    source = FileToken(path, monotonic=manual_time.monotonic)
    assert await source.token() == "one"
    for content in (b"", b"\xff\xfe", b"two words"):
        path.unlink()
        path.write_bytes(content)
        manual_time.advance(1.0)
        assert await source.token() == "one"
    path.write_text("two")
    manual_time.advance(1.0)
    assert await source.token() == "two"


async def test_rejected_token_is_read_again_at_once(tmp_path: Path, manual_time: ManualTime) -> None:
    path = tmp_path / "token"
    path.write_text("one")
    source = FileToken(path, monotonic=manual_time.monotonic)
    await source.token()
    path.write_text("two")
    source.invalidate("other")
    assert await source.token() == "one"
    source.invalidate("one")
    assert await source.token() == "two"


@pytest.mark.parametrize("content", [None, b"", b"canary canary", b"\xffcanary"])
async def test_unusable_file_is_named_without_its_content(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TokenFileError, match="token") as caught:
        await FileToken(path).token()
    assert "canary" not in str(caught.value)
