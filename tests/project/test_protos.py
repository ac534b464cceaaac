"""protos/ is complete: clients without reflection need nothing else."""

from __future__ import annotations

from importlib import metadata, resources
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from protovalidate._gen.buf.validate import validate_pb

from gatehouse.app.protos import protos_folder

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(str(path.relative_to(ROOT / "protos")) for path in (ROOT / "protos").rglob("*.proto"))


def compiled(name: str, out: Path) -> descriptor_pb2.FileDescriptorProto:
    """Compile a proto as other tools do, which have only the protos of google.protobuf themselves."""
    well_known = resources.files("grpc_tools") / "_proto"
    include = [f"-I{protos_folder()}", f"-I{well_known}"]
    assert protoc.main(["protoc", *include, f"--descriptor_set_out={out}", name]) == 0
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    return file


@pytest.mark.parametrize("name", FILES)
def test_every_import_is_in_the_folder(name: str, tmp_path: Path) -> None:
    assert compiled(name, tmp_path / "out.binpb").name == name


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("google/")])
def test_protos_of_google_are_those_of_the_installed_version(name: str) -> None:
    (installed,) = [f for f in metadata.files("googleapis-common-protos") or () if str(f) == name]
    assert (ROOT / "protos" / name).read_text() == installed.read_text()


def test_proto_of_protovalidate_is_that_of_the_installed_version(tmp_path: Path) -> None:
    installed = descriptor_pb2.FileDescriptorProto.FromString(validate_pb.desc().proto.to_binary())
    ours = compiled("buf/validate/validate.proto", tmp_path / "out.binpb")
    for file in (installed, ours):  # the installed one has the options of a code generator
        file.ClearField("options")
    assert ours == installed
