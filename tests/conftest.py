"""Fixtures that all rooms share live in tests/support, one module a part."""

from pathlib import Path

import pytest

pytest_plugins = [
    f"tests.support.{path.stem}" for path in sorted((Path(__file__).parent / "support").glob("[a-z]*.py"))
]
# Some of them import others, which must not be before pytest knows of those.
pytest.register_assert_rewrite(*pytest_plugins)
