"""Print the path of a tool that is written in Go; compile it into a cache outside of the checkout, if needed.

`go_tools.py NAME`. All of them come from the Go module proxy, in the versions below.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class GoTool:
    """A program.

    Attributes:
        package: Its Go package.
        version: Version of its module.
        tags: Build tags.
        from_path: Whether another version that is installed may be used.
    """

    package: str
    version: str
    tags: str = ""
    from_path: bool = False


TOOLS: Mapping[str, GoTool] = {
    "actionlint": GoTool("github.com/rhysd/actionlint/cmd/actionlint", "v1.7.12"),
    "grpcurl": GoTool("github.com/fullstorydev/grpcurl/cmd/grpcurl", "v1.9.4", from_path=True),
    # <part kubernetes>
    "kubeconform": GoTool("github.com/yannh/kubeconform/cmd/kubeconform", "v0.7.0"),
    "kustomize": GoTool("sigs.k8s.io/kustomize/kustomize/v5", "v5.8.1"),
    # </part kubernetes>
    # The tags leave out the clients of clouds, which would take most of the time to compile.
    "promtool": GoTool(
        "github.com/prometheus/prometheus/cmd/promtool", "v0.316.0", "remove_all_sd,enable_dns_sd"
    ),
}


def find(name: str) -> Path | None:
    """Return the path of a tool in the cache, or on PATH if any version of it will do, or None."""
    on_path = shutil.which(name) if TOOLS[name].from_path else None
    if on_path:
        return Path(on_path)
    cached = _folder(name) / name
    return cached if cached.is_file() else None


def install(name: str) -> Path:
    """Compile a tool into the cache and return its path.

    Raises:
        SystemExit: Go is not installed, or it failed.
    """
    tool = TOOLS[name]
    _check_go(name)
    print(f"{name}: compiling {tool.version} (once)", file=sys.stderr)
    _go(name, "install", "-tags", tool.tags, f"{tool.package}@{tool.version}", GOBIN=str(_folder(name)))
    return _folder(name) / name


def find_or_install(name: str) -> Path:
    """Return the path of a tool; see `install`."""
    return find(name) or install(name)


def download_module(module: str, version: str) -> Path:
    """Return the folder of a Go module in Go's cache; download it if it is not there.

    Raises:
        SystemExit: Go is not installed, or it failed.
    """
    _check_go(module)
    return Path(json.loads(_go(module, "mod", "download", "-json", f"{module}@{version}"))["Dir"])


def cache() -> Path:
    """Return the folder for what is made once, outside of the checkout."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gatehouse"


def _folder(name: str) -> Path:
    return cache() / f"{name}-{TOOLS[name].version}"


def _check_go(name: str) -> None:
    if shutil.which("go") is None:
        sys.exit(f"{name}: Go is missing, which compiles or downloads it; install Go 1.26 or later")


def _go(name: str, *arguments: str, **variables: str) -> str:
    done = subprocess.run(
        ["go", *arguments],
        env=os.environ | {"GOFLAGS": "-mod=mod"} | variables,
        cwd=Path.home(),  # not in a module
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last_line = ((done.stderr + done.stdout).strip().splitlines() or ["no output"])[-1]
        sys.exit(f"{name}: `go {' '.join(arguments)}` failed: {last_line}")
    return done.stdout


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=TOOLS)
    print(find_or_install(parser.parse_args().name))
