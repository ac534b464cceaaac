"""Write a new repository: copy, leave parts out, rename, generate again, commit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gatehouse.app.services import SERVICES
from tools.fork.names import OLD, Names, problem_of
from tools.fork.spelling import rename
from tools.parts import problem_of_part, remove_part, remove_service, text_files

ROOT = Path(__file__).resolve().parents[2]
PAGES = Path(__file__).resolve().parent / "pages"
# Written again by tools of the new repository.
GENERATED = re.compile(r"_pb2(_grpc)?\.pyi?$|/released\.binpb$")
NUMBERS = ("No", "One service", "Two services", "Three services", "Four services", "Five services")


class ForkError(Exception):
    """The fork was not made, and nothing is left of it."""


def fork(name: str, folder: Path | None, without: Sequence[str]) -> Path:
    """Write a new repository and return its folder. Print what is being done, because it takes some seconds.

    Args:
        name: Such as `acme-billing`.
        folder: Where it is written; beside this repository if None.
        without: Services and parts to leave out.

    Raises:
        ForkError: It cannot be made.
    """
    target = Path(os.path.abspath(folder or ROOT.parent / name))  # noqa: PTH100 - without following links
    problem = problem_of(name, ROOT, SERVICES)
    if problem:
        raise ForkError(f"{name}: {problem}" if name else problem)
    _check_target(target)
    _check_parts(without)
    commit = _check_checkout()
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise ForkError(f"{target.parent}: {error.strerror}; name another folder with DIR=") from None
    try:
        _write(staging, Names(name), without, commit)
        staging.chmod(0o755)
        staging.rename(target)
    except OSError as error:
        raise ForkError(f"{error.filename or target}: {error.strerror}; nothing was written") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _check_target(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise ForkError(f"{target}: exists; name another folder with DIR=")
    if (target.parent.resolve() / target.name).is_relative_to(ROOT):
        raise ForkError(f"{target}: inside this repository; name another folder with DIR=")
    if not target.parent.is_dir():
        raise ForkError(f"{target.parent}: no such folder; create it, or name another one with DIR=")


def _check_parts(without: Sequence[str]) -> None:
    for name in without:
        problem = problem_of_part(name, without, SERVICES)
        if problem:
            raise ForkError(f"WITHOUT={name}: {problem}")
        if name == "users":
            raise ForkError(
                "WITHOUT=users: the demo and the tests use UserService; "
                "remove it when you have a service of your own"
            )


def _check_checkout() -> str:
    """Return the commit of this repository, which must have no changes."""
    if shutil.which("git") is None:
        raise ForkError("git is missing; install it")
    top = _git("rev-parse", "--show-toplevel")
    if top.returncode != 0 or Path(top.stdout.strip()).resolve() != ROOT:
        reason = top.stderr.strip().splitlines()[0] if "dubious ownership" in top.stderr else ""
        raise ForkError(reason or f"{ROOT}: not a git repository; clone it instead of downloading its files")
    if _git("status", "--porcelain").stdout:
        raise ForkError(f"{ROOT}: has changes that are not committed; commit or stash them")
    return _output("git", "rev-parse", "--short=12", "HEAD", cwd=ROOT)


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def _write(folder: Path, names: Names, without: Sequence[str], commit: str) -> None:
    left_out = f", without {', '.join(without)}" if without else ""
    print(f"copying commit {commit}{left_out}", flush=True)
    _copy(folder)
    for name in without:
        if name in SERVICES:
            remove_service(folder, name)
        else:
            remove_part(folder, name)
    remove_part(folder, "fork")
    _write_pages(folder, without)
    print(f"renaming {OLD} to {names.dashed}", flush=True)
    _rename_all(folder, names)
    readme = folder / "README.md"
    credit = f"Made from {OLD.capitalize()} ({commit}), under the [Apache License 2.0](LICENSE)."
    readme.write_text(readme.read_text().replace("@CREDIT@", credit))
    print("generating stubs, documents and manifests", flush=True)
    _generate(folder, names)
    _commit(folder, names)


def _copy(folder: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if not GENERATED.search(name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)


def _write_pages(folder: Path, without: Sequence[str]) -> None:
    """Replace the pages that are about this project by pages to begin with."""
    for page in PAGES.rglob("*.tmpl"):
        target = folder / page.relative_to(PAGES).with_suffix("")
        if target.exists():
            shutil.copyfile(page, target)
    count = NUMBERS[len(set(SERVICES) - set(without))]
    readme = folder / "README.md"
    readme.write_text(readme.read_text().replace("@SERVICES@", count))


def _rename_all(folder: Path, names: Names) -> None:
    for path in text_files(folder):
        text = path.read_text()
        if OLD in text.lower():
            path.write_text(rename(text, names, is_python=path.suffix == ".py"))
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder comes before it
        relative = path.relative_to(folder).as_posix()
        if OLD in path.name:
            path.rename(path.with_name(Path(rename(relative, names)).name))


def _generate(folder: Path, names: Names) -> None:
    """Write what is made from the protos and the code, and format what the new name made longer."""
    for arguments in (
        [sys.executable, "tools/generate.py"],
        [sys.executable, "tools/generate.py", "--release"],
        [sys.executable, "tools/document.py"],
        [sys.executable, "-m", "tools.manifests"],
        ["ruff", "check", "--no-cache", "--quiet", "--fix", "--exit-zero", "."],
        ["ruff", "format", "--no-cache", "--quiet", "."],
    ):
        _run(folder, names, arguments)
    _allow_longer_lines(folder, names)


def _allow_longer_lines(folder: Path, names: Names) -> None:
    """Allow texts and comments that a longer name made longer than a line; the formatter still wraps code."""
    try:
        _run(folder, names, ["ruff", "check", "--no-cache", "--quiet", "--select", "E501", "."])
    except ForkError:
        settings = folder / "pyproject.toml"
        rules = 'ignore = [\n  "ASYNC109"'
        allowed = rules.replace(
            "  ", '  "E501",  # the formatter wraps code; texts and comments may be longer\n  '
        )
        settings.write_text(settings.read_text().replace(rules, allowed))


def _run(folder: Path, names: Names, command: Sequence[str]) -> None:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(f"{names.variable}_")
    }
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{folder / 'services'}:{folder}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise ForkError(f"{' '.join(command[-2:])}: {lines[-1] if lines else 'no output'}")


def _commit(folder: Path, names: Names) -> None:
    git = ["git", "-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null"]
    for name, value in (("user.name", names.title), ("user.email", f"{names.dashed}@localhost")):
        if _git("config", name).returncode != 0:
            git += ["-c", f"{name}={value}"]
    _output("git", "init", "--quiet", "--template=", "--initial-branch=main", cwd=folder)
    _output(*git, "add", "--all", cwd=folder)
    _output(*git, "commit", "--quiet", "--message", f"Start {names.title}", cwd=folder)


def _output(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ForkError(f"{' '.join(command)}: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return done.stdout.strip()
