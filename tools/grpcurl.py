"""Print the path of grpcurl; compile it from its Go module into a cache if it is not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

MODULE, VERSION = "github.com/fullstorydev/grpcurl/cmd/grpcurl", "v1.9.4"


def find() -> Path | None:
    """Return the path of grpcurl on PATH or in the cache, or None."""
    on_path = shutil.which("grpcurl")
    if on_path:
        return Path(on_path)
    cached = _cache() / "grpcurl"
    return cached if cached.is_file() else None


def install() -> Path:
    """Compile grpcurl into the cache and return its path.

    Raises:
        SystemExit: Go is not installed, or it failed.
    """
    if shutil.which("go") is None:
        sys.exit(f"grpcurl: not installed, and Go is missing to compile it; install one of them ({MODULE})")
    print(f"grpcurl: compiling {VERSION} (once)", file=sys.stderr)
    result = subprocess.run(
        ["go", "install", f"{MODULE}@{VERSION}"],
        env=os.environ | {"GOBIN": str(_cache()), "GOFLAGS": "-mod=mod"},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        last_line = (result.stderr.strip().splitlines() or ["no output"])[-1]
        sys.exit(f"grpcurl: `go install {MODULE}@{VERSION}` failed: {last_line}")
    return _cache() / "grpcurl"


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gatehouse" / f"grpcurl-{VERSION}"


if __name__ == "__main__":
    print(find() or install())
