"""The protos of the services as one descriptor set (a "protoset"), for clients without reflection."""

from __future__ import annotations

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2

from gatehouse.app.services import SERVICES


def descriptor_set() -> FileDescriptorSet:
    """Return the protos of all services, of error details and of health, each after its imports."""
    files: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        if file.name not in files:
            for imported in file.dependencies:
                add(imported)
            files[file.name] = file

    for spec in SERVICES.values():
        add(spec.descriptor.file)
    add(error_details_pb2.DESCRIPTOR)
    add(health_pb2.DESCRIPTOR)
    found = FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(found.file.add())
    return found
