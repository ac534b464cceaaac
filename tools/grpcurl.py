"""Prints where grpcurl is; where it is missing it is compiled from its Go module, once, into a cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

MODULE, VERSION = "github.com/fullstorydev/grpcurl/cmd/grpcurl", "v1.9.4"


def find() -> Path | None:
    """Returns grpcurl, from PATH or out of the cache, or None."""
    on_path = shutil.which("grpcurl")
    cached = _cache() / "grpcurl"
    return Path(on_path) if on_path else cached if cached.is_file() else None


def install() -> Path:
    """Compiles grpcurl into the cache.

    Raises:
        SystemExit: There is no Go, or it fails.
    """
    if shutil.which("go") is None:
        sys.exit(f"grpcurl: is not here, and neither is Go to compile it; install one of them ({MODULE})")
    print(f"grpcurl: compiling {VERSION} (once)", file=sys.stderr)
    done = subprocess.run(
        ["go", "install", f"{MODULE}@{VERSION}"],
        env=os.environ | {"GOBIN": str(_cache()), "GOFLAGS": "-mod=mod"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"grpcurl: `go install {MODULE}@{VERSION}` failed: {done.stderr.strip().splitlines()[-1:]}")
    return _cache() / "grpcurl"


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gatehouse" / f"grpcurl-{VERSION}"


if __name__ == "__main__":
    print(find() or install())
