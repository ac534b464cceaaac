"""Generate the Python stubs from protos/, or check them: `generate.py`, `generate.py --check`.

protoc comes from grpcio-tools, the lint and breaking-change rules from buf, and the descriptor of
buf/validate/validate.proto from the installed protovalidate, so nothing is downloaded.
"""

from __future__ import annotations

import filecmp
import importlib.resources
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from protovalidate._gen.buf.validate import validate_pb

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
OUT = ROOT / "services"
BASELINE = "released.binpb"  # in the folder of each package
VALIDATE = "buf/validate/validate.proto"


def _run_protoc(*arguments: str) -> None:
    if protoc.main(["protoc", *arguments]) != 0:
        sys.exit("generate: protoc failed; fix the protos that it names above")


def _validate_descriptor(folder: Path) -> Path:
    """Write the descriptor of validate.proto with its imports and return its path."""
    files = descriptor_pb2.FileDescriptorSet()
    well_known = folder / "well_known.binpb"
    include = importlib.resources.files("grpc_tools") / "_proto"
    _run_protoc(
        f"-I{include}",
        f"--descriptor_set_out={well_known}",
        "--include_imports",
        "google/protobuf/descriptor.proto",
        "google/protobuf/duration.proto",
        "google/protobuf/field_mask.proto",
        "google/protobuf/timestamp.proto",
    )
    files.ParseFromString(well_known.read_bytes())
    files.file.add().ParseFromString(validate_pb.desc().proto.to_binary())
    path = folder / "validate.binpb"
    path.write_bytes(files.SerializeToString())
    return path


def _own_protos() -> list[str]:
    return sorted(str(p.relative_to(PROTOS)) for p in PROTOS.rglob("*.proto"))


def _includes(folder: Path) -> list[str]:
    return [
        f"-I{PROTOS}",
        f"-I{Path(annotations_pb2.__file__).parents[2]}",
        f"-I{importlib.resources.files('grpc_tools') / '_proto'}",
        f"--descriptor_set_in={_validate_descriptor(folder)}",
    ]


def _write_image(image: Path, protos: list[str], includes: list[str], *options: str) -> None:
    _run_protoc(*includes, f"--descriptor_set_out={image}", *options, *protos)


def generate(out: Path, image: Path) -> list[Path]:
    """Write the stubs of all protos below `out`, and a descriptor image of them to `image`.

    Returns:
        The stubs, relative to `out`, that differ from the committed ones.
    """
    out.mkdir()
    with tempfile.TemporaryDirectory() as name:
        includes, protos = _includes(Path(name)), _own_protos()
        _run_protoc(*includes, f"--python_out={out}", f"--mypy_out=quiet:{out}", VALIDATE, *protos)
        _run_protoc(
            *includes,
            f"--grpc_python_out={out}",
            f"--mypy_grpc_out=quiet:{out}",
            *[p for p in protos if "service " in (PROTOS / p).read_text()],
        )
        _write_image(image, protos, includes, "--include_imports", "--include_source_info")
    stubs = (path.relative_to(out) for path in sorted(out.rglob("*")) if path.is_file())
    return [stub for stub in stubs if not _is_committed(out / stub, OUT / stub)]


def _is_committed(stub: Path, committed: Path) -> bool:
    return committed.exists() and filecmp.cmp(stub, committed, shallow=False)


def check() -> int:
    """Return 1 if the committed stubs differ from the protos, or if buf finds a problem."""
    problems = 0
    with tempfile.TemporaryDirectory() as name:
        image = Path(name) / "image.binpb"
        for stub in generate(Path(name) / "out", image):
            print(f"{(OUT / stub).relative_to(ROOT)}: differs from protos/; run `make generate`")
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
        with tempfile.TemporaryDirectory() as name:
            image = Path(name) / "image.binpb"
            _write_image(image, protos, _includes(Path(name)), "--include_imports")
            (package / BASELINE).write_bytes(image.read_bytes())


def main() -> int:
    """Generate stubs and list the changed ones, check them (`--check`), or make a baseline (`--release`)."""
    if "--check" in sys.argv[1:]:
        return check()
    if "--release" in sys.argv[1:]:
        release()
        return 0
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out"
        for stub in generate(out, Path(name) / "image.binpb"):
            target = OUT / stub
            print(f"{'changed' if target.exists() else 'wrote':<8} {target.relative_to(ROOT)}")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(out / stub, target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
