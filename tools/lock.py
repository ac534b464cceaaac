"""Write requirements/*.txt from pyproject.toml, with hashes, for every supported Python."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _compile(name: str, requirements: list[str], *constraints: Path) -> Path:
    out = ROOT / "requirements" / f"{name}.txt"
    print(f"locking  {out.relative_to(ROOT)}", flush=True)
    with tempfile.NamedTemporaryFile("w", suffix=".in") as source:
        source.write("\n".join(requirements) + "\n")
        source.flush()
        command = ["uv", "pip", "compile", source.name, "-o", str(out), "--universal"]
        command += [
            "--generate-hashes",
            "--no-strip-extras",
            "--python-version",
            "3.11",
            "--no-emit-index-url",
            "--no-annotate",
        ]
        command += ["--custom-compile-command", "make lock", "--quiet", *sys.argv[1:]]
        for path in constraints:
            command += ["-c", str(path)]
        subprocess.run(command, cwd=ROOT, check=True)
    return out


def main() -> None:
    """Lock each set of requirements; those of one environment agree with each other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    runtime = project["project"]["dependencies"]
    groups = project["dependency-groups"]
    extras = project["project"]["optional-dependencies"]
    testbed = [*runtime, *extras["testbed"], "editables", "hatchling"]
    # <part console>
    testbed += extras["console"]
    # </part console>
    dev = [*testbed, *extras["keyring"], *groups["dev"]]
    locked = _compile("dev", dev)
    _compile("testbed", testbed, locked)
    _compile("runtime", runtime, locked)
    # <part console>
    _compile("console", [*runtime, *extras["console"]], locked)
    _compile("browser", groups["browser"], locked)
    # </part console>
    _compile("build", ["hatchling"], locked)
    _compile("docs", groups["docs"], locked)
    _compile("sbom", groups["sbom"])
    _compile("mutants", groups["mutants"])
    # <part chaos>
    _compile("ha", groups["ha"])
    # </part chaos>


if __name__ == "__main__":
    main()
