"""The messages of everything.proto."""

from __future__ import annotations

import importlib.resources
import tempfile
from pathlib import Path
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf import any_pb2 as _any  # noqa: F401 - everything.proto imports it
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf import empty_pb2 as _empty  # noqa: F401 - everything.proto imports it
from google.protobuf import struct_pb2 as _struct  # noqa: F401 - everything.proto imports it
from google.protobuf import wrappers_pb2 as _wrappers  # noqa: F401 - everything.proto imports it
from google.protobuf.descriptor import MethodDescriptor
from grpc_tools import protoc

from buf.validate import validate_pb2

_PROTO = Path(__file__).parent / "everything.proto"


def _load() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        image, imports = Path(folder) / "image.binpb", Path(folder) / "imports.binpb"
        known = descriptor_pb2.FileDescriptorSet()
        for each in (*validate_pb2.DESCRIPTOR.dependencies, validate_pb2.DESCRIPTOR):
            known.file.add().ParseFromString(each.serialized_pb)
        imports.write_bytes(known.SerializeToString())
        done = protoc.main(
            [
                "protoc",
                f"-I{_PROTO.parent}",
                f"-I{Path(field_behavior_pb2.__file__).parents[2]}",
                f"-I{importlib.resources.files('grpc_tools') / '_proto'}",
                f"--descriptor_set_in={imports}",
                f"--descriptor_set_out={image}",
                _PROTO.name,
            ]
        )
        assert done == 0
        (file,) = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes()).file
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindServiceByName("probe.everything.v1.Probe")


PROBE = _load()
CALL: MethodDescriptor = PROBE.methods_by_name["Call"]
SEND: MethodDescriptor = PROBE.methods_by_name["Send"]
Everything: Any = message_factory.GetMessageClass(CALL.input_type)
