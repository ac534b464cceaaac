"""Files of the test bed: the demo users."""

from __future__ import annotations

from pathlib import Path

import pytest

from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.files import read_users, users_file


def test_repository_has_a_thousand_users_with_different_addresses() -> None:
    rows = read_users(users_file())
    assert (len(rows), rows[0].number, rows[-1].number) == (1000, 1, 1000)
    assert len({row.email for row in rows}) == 1000


def test_file_without_users_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("email,name\na@x.test,A\n")
    with pytest.raises(TestbedError, match="not a CSV file with email and display_name"):
        read_users(tmp_path / "x.csv")
    with pytest.raises(TestbedError, match="cannot be read"):
        read_users(tmp_path / "missing.csv")
