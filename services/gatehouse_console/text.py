"""Text of other servers, as pages show it."""

from __future__ import annotations


def shorten(text: str, chars: int) -> str:
    """Return a text, cut to a length."""
    return text if len(text) <= chars else f"{text[: chars - 1]}…"


def short_rpc(name: str) -> str:
    """Return an RPC without its package: `UserService/GetUser`."""
    path, slash, method = name.rpartition("/")
    return f"{path.rpartition('.')[2]}/{method}" if slash and path else name


def number_text(value: float) -> str:
    """Return a number with about three digits."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3  # noqa: PLR2004 - powers of ten
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if digits else text


def duration_text(seconds: float) -> str:
    """Return a duration with a unit that suits it."""
    return f"{number_text(seconds * 1000)} ms" if seconds < 1 else f"{number_text(seconds)} s"
