"""Makes the Python stubs from protos/, and checks them: `generate.py`, `generate.py --check`.

protoc comes from grpcio-tools, lint and breaking-change rules from buf, and
buf/validate/validate.proto as a descriptor out of the installed protovalidate,
so nothing is fetched.
"""

from __future__ import annotations

import filecmp
import importlib.resources
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
BASELINE = PROTOS / "released.binpb"
VALIDATE = "buf/validate/validate.proto"


def _run_protoc(*arguments: str) -> None:
    if protoc.main(["protoc", *arguments]) != 0:
        sys.exit("generate: protoc refused the protos; mend what it names above")


def _validate_descriptor(folder: Path) -> Path:
    """Writes the descriptor of validate.proto with its imports and returns its path."""
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


def generate(out: Path, image: Path) -> None:
    """Writes stubs of every proto below `out`, and a descriptor image of all to `image`."""
    with tempfile.TemporaryDirectory() as name:
        validate = _validate_descriptor(Path(name))
        include = [
            f"-I{PROTOS}",
            f"-I{Path(annotations_pb2.__file__).parents[2]}",
            f"-I{importlib.resources.files('grpc_tools') / '_proto'}",
            f"--descriptor_set_in={validate}",
        ]
        own = _own_protos()
        _run_protoc(*include, f"--python_out={out}", f"--mypy_out=quiet:{out}", VALIDATE, *own)
        _run_protoc(
            *include,
            f"--grpc_python_out={out}",
            f"--mypy_grpc_out=quiet:{out}",
            *[p for p in own if "service " in (PROTOS / p).read_text()],
        )
        _run_protoc(
            *include,
            f"--descriptor_set_out={image}",
            "--include_imports",
            "--include_source_info",
            *own,
        )


def check() -> int:
    """Returns 1 when the stubs are not what the protos make, or buf finds fault."""
    problems = 0
    with tempfile.TemporaryDirectory() as name:
        out, image = Path(name) / "out", Path(name) / "image.binpb"
        out.mkdir()
        generate(out, image)
        for made in sorted(p for p in out.rglob("*") if p.is_file()):
            kept = OUT / made.relative_to(out)
            if not kept.exists() or not filecmp.cmp(made, kept, shallow=False):
                print(f"{kept.relative_to(ROOT)}: not what protos/ makes; run `make generate`")
                problems += 1
        problems += subprocess.run(["buf", "lint", str(image)], cwd=ROOT, check=False).returncode != 0
        if BASELINE.exists():
            problems += (
                subprocess.run(
                    ["buf", "breaking", str(image), "--against", str(BASELINE)],
                    cwd=ROOT,
                    check=False,
                ).returncode
                != 0
            )
    return 1 if problems else 0


def main() -> int:
    """Generates, checks (`--check`), or makes the protos of now the released ones (`--release`)."""
    if "--check" in sys.argv[1:]:
        return check()
    with tempfile.TemporaryDirectory() as name:
        image = Path(name) / "image.binpb"
        generate(OUT, image)
        if "--release" in sys.argv[1:]:
            BASELINE.write_bytes(image.read_bytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
