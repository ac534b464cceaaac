"""Server reflection, for clients such as grpcurl and ghz: https://grpc.io/docs/guides/reflection/.

The servicer of grpcio-reflection serves v1alpha only, does not find methods (grpc/grpc#34743), and leaves out
JSON names, so that grpcurl prints `user_id` instead of `userId`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2 as pb

from gatehouse.rpc._registration import Service

_ALPHA = "grpc.reflection.v1alpha.ServerReflection"
# v1 has the messages of v1alpha in another package.
SERVICE_NAMES = ("grpc.reflection.v1.ServerReflection", _ALPHA)


def reflection_services(service_names: Iterable[str]) -> list[Service]:
    """Return the reflection services, v1 and v1alpha.

    Args:
        service_names: Services to list. What their protos import can be looked up, and error details.
    """
    servicer = Reflection([*service_names, *SERVICE_NAMES])
    return [Service(_Registration(name), servicer) for name in SERVICE_NAMES]


@dataclass(frozen=True, slots=True)
class _Registration:
    """Take the place of a generated registration function; grpcio-reflection has none for v1."""

    service_name: str

    def __call__(self, servicer: Reflection, server: Any) -> None:
        handler = grpc.stream_stream_rpc_method_handler(
            servicer.info,
            request_deserializer=pb.ServerReflectionRequest.FromString,
            response_serializer=pb.ServerReflectionResponse.SerializeToString,
        )
        server.add_registered_method_handlers(self.service_name, {"ServerReflectionInfo": handler})


class Reflection:
    """Answers reflection requests of both versions.

    Args:
        service_names: Services to list; those whose proto is not in the default pool are listed only.
    """

    def __init__(self, service_names: Iterable[str]) -> None:
        self._names = sorted(service_names)
        self._index = _Index()
        self._index.add(error_details_pb2.DESCRIPTOR)  # which no service imports, but errors contain
        pool = descriptor_pool.Default()
        for name in self._names:
            try:
                self._index.add(pool.FindServiceByName(name).file)
            except KeyError:
                continue
        alpha = self._index.protos[pool.FindServiceByName(_ALPHA).file.name]
        text = json_format.MessageToJson(alpha).replace("v1alpha", "v1")
        self._index.add_proto(json_format.Parse(text, descriptor_pb2.FileDescriptorProto()))

    async def info(self, requests: AsyncIterator[Any], _: Any) -> AsyncIterator[Any]:
        """Answer the requests of a stream."""
        async for request in requests:
            yield pb.ServerReflectionResponse(
                valid_host=request.host, original_request=request, **self._answer(request)
            )

    def _answer(self, request: Any) -> dict[str, Any]:
        """Return the field that answers a request."""
        index = self._index
        match request.WhichOneof("message_request"):
            case "list_services":
                services = [pb.ServiceResponse(name=name) for name in self._names]
                return {"list_services_response": pb.ListServiceResponse(service=services)}
            case "file_by_filename":
                return self._files(request.file_by_filename)
            case "file_containing_symbol":
                return self._files(index.symbols.get(request.file_containing_symbol))
            case "file_containing_extension":
                wanted = request.file_containing_extension
                numbers = index.extensions.get(wanted.containing_type, {})
                return self._files(numbers.get(wanted.extension_number))
            case "all_extension_numbers_of_type":
                return self._numbers(request.all_extension_numbers_of_type)
        return _error(grpc.StatusCode.INVALID_ARGUMENT)

    def _numbers(self, name: str) -> dict[str, Any]:
        """Answer with the numbers of the extensions of a message."""
        if name not in self._index.symbols:
            return _error(grpc.StatusCode.NOT_FOUND)
        numbers = sorted(self._index.extensions.get(name, {}))
        answer = pb.ExtensionNumberResponse(base_type_name=name, extension_number=numbers)
        return {"all_extension_numbers_response": answer}

    def _files(self, name: str | None) -> dict[str, Any]:
        """Answer with a file and all that it imports."""
        if name not in self._index.protos:
            return _error(grpc.StatusCode.NOT_FOUND)
        found = [proto.SerializeToString() for proto in self._index.with_imports(name)]
        return {"file_descriptor_response": pb.FileDescriptorResponse(file_descriptor_proto=found)}


def _error(code: grpc.StatusCode) -> dict[str, Any]:
    number, text = code.value
    return {"error_response": pb.ErrorResponse(error_code=number, error_message=text)}


@dataclass(frozen=True, slots=True)
class _Index:
    """Files, and the names of the files in which symbols and extensions are.

    Attributes:
        protos: Files by name.
        symbols: Names of files by symbol: packages are none.
        extensions: Names of files by extended message and number.
    """

    protos: dict[str, descriptor_pb2.FileDescriptorProto] = field(default_factory=dict)
    symbols: dict[str, str] = field(default_factory=dict)
    extensions: dict[str, dict[int, str]] = field(default_factory=dict)

    def add(self, file: FileDescriptor) -> None:
        """Add a file and all that it imports."""
        if file.name in self.protos:
            return
        for dependency in file.dependencies:
            self.add(dependency)
        proto = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(proto)
        for message in proto.message_type:
            _set_json_names(message, file.message_types_by_name[message.name])
        self.add_proto(proto)

    def add_proto(self, proto: descriptor_pb2.FileDescriptorProto) -> None:
        """Add a file whose imports have been added."""
        self.protos[proto.name] = proto
        prefix = f"{proto.package}." if proto.package else ""
        self.symbols.update(dict.fromkeys(_symbols(proto, prefix), proto.name))
        for extension in _extensions(proto):
            numbers = self.extensions.setdefault(extension.extendee.removeprefix("."), {})
            numbers[extension.number] = proto.name

    def with_imports(self, name: str) -> Iterator[descriptor_pb2.FileDescriptorProto]:
        """Yield a file, and each file that it imports once."""
        seen = [name]
        for one in seen:  # which grows
            proto = self.protos[one]
            yield proto
            seen += [dependency for dependency in proto.dependency if dependency not in seen]


def _set_json_names(proto: descriptor_pb2.DescriptorProto, message: Descriptor) -> None:
    for one in proto.field:
        one.json_name = message.fields_by_number[one.number].json_name
    for nested in proto.nested_type:
        _set_json_names(nested, message.nested_types_by_name[nested.name])


def _symbols(scope: Any, prefix: str) -> Iterator[str]:
    """Yield the full names of what a file or message declares."""
    is_file = isinstance(scope, descriptor_pb2.FileDescriptorProto)
    messages = scope.message_type if is_file else scope.nested_type
    others = scope.service if is_file else (*scope.field, *scope.oneof_decl)
    for one in (*messages, *scope.enum_type, *scope.extension, *others):
        yield prefix + one.name
    for message in messages:
        yield from _symbols(message, f"{prefix}{message.name}.")
    for enum in scope.enum_type:
        for value in enum.value:
            # Values are siblings of their enum; some clients look for them below it.
            yield prefix + value.name
            yield f"{prefix}{enum.name}.{value.name}"
    for service in scope.service if is_file else ():
        yield from (f"{prefix}{service.name}.{method.name}" for method in service.method)


def _extensions(scope: Any) -> Iterator[descriptor_pb2.FieldDescriptorProto]:
    """Yield the extensions that a file or message declares."""
    yield from scope.extension
    is_file = isinstance(scope, descriptor_pb2.FileDescriptorProto)
    for message in scope.message_type if is_file else scope.nested_type:
        yield from _extensions(message)
