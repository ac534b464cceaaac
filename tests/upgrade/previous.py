"""Which version is the previous one, and a copy of it."""

from __future__ import annotations

import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

MIGRATIONS = "migrations"


class NoPreviousVersion(Exception):
    """It cannot be found; the message is one line that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Previous:
    """The previous version.

    Attributes:
        commit: Its commit.
        reason: Why it is this one.
    """

    commit: str
    reason: str

    def __str__(self) -> str:
        return f"previous version: {self.commit[:12]}, {self.reason}"


def find_previous(root: Path, name: str = "") -> Previous:
    """Return the previous version, as docs/upgrades.md describes.

    Args:
        root: Folder of the repository.
        name: Commit or tag that the user names.

    Raises:
        NoPreviousVersion: It does not exist, or the history is incomplete.
    """
    head = _git(root, "rev-parse", "--verify", "HEAD")
    if not head:
        raise NoPreviousVersion(f"{root}: not a git repository with a commit; clone it")
    if name:
        named = _git(root, "rev-parse", "--verify", f"{name}^{{commit}}")
        if not named:
            raise NoPreviousVersion(f"PREVIOUS={name}: no such commit; fetch it, or name another one")
        return Previous(named, f"as named by PREVIOUS={name}")
    if _git(root, "rev-parse", "--is-shallow-repository") == "true":
        raise NoPreviousVersion(
            "the history is incomplete; run `git fetch --unshallow --tags` (GitHub Actions: fetch-depth: 0), "
            "or name a commit with PREVIOUS="
        )
    if tag := _git(root, "describe", "--tags", "--abbrev=0", "--match=v*", "HEAD^"):
        return Previous(_git(root, "rev-parse", f"{tag}^{{commit}}"), f"the release {tag}")
    scripts = f":(glob){MIGRATIONS}/*/*.py"
    if re.search(r"^(\?\?|A)", _git(root, "status", "--porcelain", "--untracked-files=all", "--", scripts)):
        return Previous(head, "the current commit, because a migration was added since")
    log = ("log", "-1", "--first-parent", "-m", "--diff-filter=A", "--format=%H", "--", scripts)
    added = _git(root, *log)
    before = _git(root, "rev-parse", "--verify", f"{added}^")
    if added and before and _git(root, "ls-tree", "--name-only", before, f"{MIGRATIONS}/"):
        return Previous(before, "the last commit without the newest migration")
    return Previous(head, "the current commit, because no commit before has fewer migrations")


def copy_previous(root: Path, previous: Previous, folder: Path) -> None:
    """Write the previous version to a folder, with the migrations of the working tree."""
    archive = folder.with_suffix(".tar")
    subprocess.run(["git", "archive", f"--output={archive}", previous.commit], cwd=root, check=True)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()


def _git(root: Path, *arguments: str) -> str:
    """Return the output of a git command, or "" if it fails."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
