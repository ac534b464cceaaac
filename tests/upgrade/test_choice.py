"""Which version is the previous one, in repositories of every kind."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.upgrade.previous import NoPreviousVersion, find_previous


class Repository:
    """A repository with migrations.

    Args:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str) -> str:
        """Run a git command, and return its output."""
        author = [
            "-c",
            "user.name=Alice",
            "-c",
            "user.email=alice@example.test",
            "-c",
            "commit.gpgsign=false",
        ]
        command = ["git", *author, *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self, *migrations: str) -> str:
        """Commit with further migrations, and return the commit."""
        for name in migrations:
            self.add(name)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=Change")
        return self.git("rev-parse", "HEAD")

    def add(self, name: str) -> None:
        """Write a migration without committing it."""
        script = self.folder / "migrations" / "users" / f"{name}.py"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(f"revision = {name!r}\n")

    def previous(self, name: str = "") -> tuple[str, str]:
        """Return the previous version and the reason."""
        found = find_previous(self.folder, name)
        return found.commit, found.reason


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def test_commit_before_the_newest_migration(repository: Repository) -> None:
    repository.commit("0001")
    before = repository.commit()
    repository.commit("0002")
    head = repository.commit()
    assert repository.previous() == (before, "the last commit without the newest migration")

    repository.add("0003")
    assert repository.previous() == (head, "the current commit, because a migration was added since")


def test_migration_that_came_with_a_merge(repository: Repository) -> None:
    before = repository.commit("0001")
    repository.git("switch", "--quiet", "--create", "branch")
    repository.commit("0002")
    repository.git("switch", "--quiet", "main")
    beside = repository.commit()
    repository.git("merge", "--quiet", "--no-ff", "--message=Merge", "branch")
    assert repository.previous()[0] == beside != before


def test_release_before_this_commit(repository: Repository) -> None:
    first = repository.commit("0001")
    repository.git("tag", "v1.0")
    repository.commit("0002")
    repository.git("tag", "not-a-release")
    assert repository.previous() == (first, "the release v1.0")

    repository.git("tag", "v1.1")  # the release that is about to be made
    assert repository.previous() == (first, "the release v1.0")


@pytest.mark.parametrize("commits", [1, 2])
def test_new_repository_has_the_current_commit_only(repository: Repository, commits: int) -> None:
    if commits == 2:
        repository.commit()  # without any migration
    head = repository.commit("0001")
    assert repository.previous() == (
        head,
        "the current commit, because no commit before has fewer migrations",
    )


def test_commit_that_is_named(repository: Repository) -> None:
    first = repository.commit("0001")
    repository.commit("0002")
    repository.commit("0003")
    assert repository.previous("HEAD~2") == (first, "as named by PREVIOUS=HEAD~2")
    with pytest.raises(NoPreviousVersion, match=r"^PREVIOUS=v9: no such commit; fetch it"):
        repository.previous("v9")


def test_shallow_clone_and_plain_folder_are_errors(repository: Repository, tmp_path: Path) -> None:
    repository.commit("0001")
    head = repository.commit("0002")
    shallow = tmp_path / "shallow"
    repository.git("clone", "--quiet", "--depth=1", f"file://{repository.folder}", str(shallow))
    with pytest.raises(NoPreviousVersion, match=r"^the history is incomplete; run `git fetch --unshallow"):
        find_previous(shallow)
    assert find_previous(shallow, "HEAD").commit == head

    plain = tmp_path / "plain"
    plain.mkdir()
    with pytest.raises(NoPreviousVersion, match="not a git repository with a commit; clone it"):
        find_previous(plain)
