"""Run a suite with branch coverage, and compare its packages with their floors: `test.py SUITE [ARGUMENTS]`.

A suite is `tests`, or `tests/testbed` for the demo and the test bed. With arguments of pytest, which select
some of its tests, coverage is not compared.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import coverage
from coverage.exceptions import NoDataError

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ROOT / "services"
DATA_FILE = ROOT / ".coverage"
TESTBED = SERVICES / "gatehouse_testbed"
ISSUER = TESTBED / "issuer"
# Minimum percentage of lines and branches. Raise a floor when coverage grows; never lower it.
FLOORS = {"oauth": 98, "rpc": 98, "storage": 98, "gatehouse_testbed": 95, "issuer": 95}
# <part console>
FLOORS["gatehouse_console"] = 97
# </part console>
SERVICE_FLOOR = 96
OTHER_FLOOR = 90


def packages(suite: str) -> Iterator[tuple[Path, float]]:
    """Yield each package that a suite covers, with its floor; the development issuer is listed separately."""
    if suite == "tests/testbed":
        yield TESTBED, FLOORS[TESTBED.name]
        return
    beside = [path for path in sorted(SERVICES.glob("gatehouse_*")) if path != TESTBED]
    for path in [*sorted((SERVICES / "gatehouse").iterdir()), *beside, ISSUER]:
        if path.is_dir() and path.name != "__pycache__":
            is_service = (path / "service.py").exists()
            yield path, FLOORS.get(path.name, SERVICE_FLOOR if is_service else OTHER_FLOOR)


def check_coverage(suite: str) -> int:
    """Print the coverage of each package of a suite; return 1 if one is below its floor."""
    measured = coverage.Coverage(data_file=str(DATA_FILE), config_file=str(ROOT / "pyproject.toml"))
    measured.combine()  # the files of all workers and of the processes that tests start
    failed = []
    for path, floor in packages(suite):
        elsewhere = [f"{ISSUER}/*"] if path == TESTBED else None
        try:
            percent = measured.report(include=[f"{path}/*"], omit=elsewhere, file=io.StringIO())
        except NoDataError:  # nothing but generated stubs
            continue
        print(f"coverage  {path.name:18} {percent:5.1f} %  (floor {floor:g} %)")
        if percent < floor:
            failed.append(path.name)
    if failed:
        print(f"coverage below the floor: {', '.join(failed)}; see the lines with `coverage report -m`")
        return 1
    print("all tests passed; the coverage of every package is at its floor or above")
    return 0


def main(suite: str, arguments: list[str]) -> int:
    """Run a suite; return the exit code of pytest, or 1 if a package is below its floor."""
    for old in ROOT.glob(".coverage*"):
        old.unlink()
    cores = os.cpu_count() or 1
    workers = str(min(2 * cores, 6))  # while tests wait, others use the cores
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        workers,
        "--dist",
        "loadfile",
        "--no-loadscope-reorder",
    ]
    command += [suite, *arguments]
    # Without compiled files, every process that a test starts would compile the code again.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTEST_PLUGINS": "tools.coverage_plugin", "COVERAGE_FILE": str(DATA_FILE)}
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    is_partial = any(not argument.startswith("--durations") for argument in arguments)
    return code if code or is_partial else check_coverage(suite)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
