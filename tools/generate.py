"""Generate the Python stubs from protos/, or check them: `generate.py`, `generate.py --check`.

protoc comes from grpcio-tools, and the lint and breaking-change rules from buf. The protos that ours import
are in protos/buf and protos/google, so nothing is downloaded.
"""

from __future__ import annotations

import filecmp
import importlib.resources
import subprocess
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
OUT = ROOT / "services"
BASELINE = "released.binpb"  # in the folder of each package
VALIDATE = "buf/validate/validate.proto"


def _run_protoc(*arguments: str) -> None:
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    if protoc.main(["protoc", f"-I{PROTOS}", f"-I{well_known}", *arguments]) != 0:
        sys.exit("generate: protoc failed; fix the protos that it names above")


def _own_protos() -> list[str]:
    return sorted(str(p.relative_to(PROTOS)) for p in (PROTOS / "gatehouse").rglob("*.proto"))


def _write_image(image: Path, protos: list[str], *options: str) -> None:
    _run_protoc(f"--descriptor_set_out={image}", "--include_imports", *options, *protos)


def generate(out: Path, image: Path) -> None:
    """Write the stubs of all protos below `out`, and a descriptor image of them to `image`."""
    protos = _own_protos()
    _run_protoc(f"--python_out={out}", f"--mypy_out=quiet:{out}", VALIDATE, *protos)
    _run_protoc(
        f"--grpc_python_out={out}",
        f"--mypy_grpc_out=quiet:{out}",
        *[p for p in protos if "service " in (PROTOS / p).read_text()],
    )
    _write_image(image, protos, "--include_source_info")


def check() -> int:
    """Return 1 if the committed stubs differ from the protos, or if buf finds a problem."""
    problems = 0
    with tempfile.TemporaryDirectory() as name:
        out, image = Path(name) / "out", Path(name) / "image.binpb"
        out.mkdir()
        generate(out, image)
        for stub in sorted(p for p in out.rglob("*") if p.is_file()):
            committed = OUT / stub.relative_to(out)
            if not committed.exists() or not filecmp.cmp(stub, committed, shallow=False):
                print(f"{committed.relative_to(ROOT)}: differs from protos/; run `make generate`")
                problems += 1
        problems += _buf("lint", str(image))
        for package in _packages():
            if (package / BASELINE).exists():
                problems += _buf("breaking", str(image), "--against", str(package / BASELINE))
    return 1 if problems else 0


def _buf(*arguments: str) -> bool:
    """Run buf and return whether it found a problem."""
    return subprocess.run(["buf", *arguments], cwd=ROOT, check=False).returncode != 0


def _packages() -> list[Path]:
    """Return the folders of protos. Each has its own baseline, so that it can be deleted as a whole."""
    return sorted({(PROTOS / proto).parent for proto in _own_protos()})


def release() -> None:
    """Make the current protos the baseline that later changes must not break."""
    for package in _packages():
        protos = [str(p.relative_to(PROTOS)) for p in sorted(package.glob("*.proto"))]
        _write_image(package / BASELINE, protos)


def main() -> int:
    """Generate the stubs, check them (`--check`), or make the protos the new baseline (`--release`)."""
    if "--check" in sys.argv[1:]:
        return check()
    if "--release" in sys.argv[1:]:
        release()
        return 0
    with tempfile.TemporaryDirectory() as name:
        generate(OUT, Path(name) / "image.binpb")
    return 0


if __name__ == "__main__":
    sys.exit(main())
