"""The account that runs PostgreSQL, and the folder that it can reach."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from gatehouse_testbed.accounts import Account, find_account, reachable, temporary_folder
from gatehouse_testbed.errors import TestbedError

OWN = Account(os.geteuid(), os.getegid(), differs=False)
OTHER = Account(65_534, 65_534, differs=True)


def private_folder(parent: Path) -> Path:
    """Return a folder that only its owner can enter."""
    folder = parent / "private"
    folder.mkdir(mode=0o700)
    return folder


def test_postgres_never_runs_as_root() -> None:
    account = find_account()
    assert account.uid != 0
    assert account.differs == (os.geteuid() == 0)


def test_other_account_cannot_reach_a_private_folder(short_folder: Path) -> None:
    file = private_folder(short_folder) / "data"
    assert reachable(file, OWN)
    assert not reachable(file, OTHER)
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_temporary_folder_that_the_account_cannot_reach_is_not_used(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = private_folder(short_folder)
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    assert temporary_folder(OWN) == private
    assert temporary_folder(OTHER) in (Path("/tmp"), Path("/var/tmp"))


def test_missing_temporary_folder_is_an_error_that_names_tmpdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(TestbedError, match=r"missing: .*; set TMPDIR to a folder that it can"):
        temporary_folder(OWN)
