"""Fixtures that all rooms share live in tests/support, one module a part."""

from pathlib import Path

pytest_plugins = [
    f"tests.support.{path.stem}" for path in sorted((Path(__file__).parent / "support").glob("[a-z]*.py"))
]
