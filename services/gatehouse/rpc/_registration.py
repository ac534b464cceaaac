"""Read the RPC handlers that generated code registers, and the descriptors of their protos."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

from gatehouse.rpc.call import Status
from gatehouse.rpc.errors import StatusError
from gatehouse.rpc.policy import PolicyError

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@dataclass(frozen=True, slots=True)
class Service:
    """A servicer and the generated function that registers it.

    Attributes:
        add: `add_XServicer_to_server`.
        servicer: Implementation of the generated servicer class.
    """

    add: Callable[[Any, Any], None]
    servicer: object


class _Registrar:
    """Stands in for a server in generated code, and collects the handlers that it registers."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[object]) -> None:
        """Do nothing: generated code registers the same handlers by name as well."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        for name, handler in handlers.items():
            self.handlers[f"/{service}/{name}"] = handler


def collect_handlers(services: Sequence[Service]) -> dict[str, Handler]:
    """Return the handlers of `services` by path, `/package.Service/Method`.

    An RPC that a servicer does not implement is UNIMPLEMENTED, once its caller is authorized.

    Raises:
        PolicyError: A handler is not async, or a path is registered twice.
    """
    found: dict[str, Handler] = {}
    for service in services:
        registrar = _Registrar()
        service.add(service.servicer, registrar)
        for path, handler in registrar.handlers.items():
            function = handler_function(handler)
            if function.__module__.endswith("_pb2_grpc"):  # of the generated class, so not overridden
                handler, function = _unimplemented(handler), _refuse  # noqa: PLW2901
            if not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
                raise PolicyError(f"{path[1:]}: the handler is not async; define it with `async def`")
            if path in found:
                raise PolicyError(f"{path[1:]}: registered twice; remove one of the services")
            found[path] = handler
        if not registrar.handlers:
            raise PolicyError(
                f"{type(service.servicer).__name__}: registers no RPC; generate its stubs with grpcio-tools "
                "1.64 or later"
            )
    return found


async def _refuse(*_: object) -> None:
    raise StatusError(Status(grpc.StatusCode.UNIMPLEMENTED, "not implemented", "METHOD_NOT_IMPLEMENTED"))


def _unimplemented(handler: Handler) -> Handler:
    """Return a handler of the same type that refuses all calls."""
    factories: dict[tuple[bool, bool], Callable[..., Handler]] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make = factories[handler.request_streaming, handler.response_streaming]
    return make(_refuse, handler.request_deserializer, handler.response_serializer)


def handler_function(handler: Handler) -> Callable[..., Any]:
    """Return the function of a handler; it has one attribute for each RPC type, and sets one of them."""
    function = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    return cast("Callable[..., Any]", function)


def find_descriptors(paths: Iterable[str]) -> dict[str, MethodDescriptor]:
    """Return the descriptors of RPCs by path, without those whose proto is not in the default pool."""
    pool = descriptor_pool.Default()
    found = {}
    for path in paths:
        _, service, name = path.split("/")
        with contextlib.suppress(KeyError):
            found[path] = pool.FindServiceByName(service).methods_by_name[name]
    return found


def service_descriptors(services: Iterable[str]) -> dict[str, MethodDescriptor]:
    """Return the descriptors of all RPCs of `services` by path.

    Raises:
        PolicyError: The proto of a service is not in the default pool.
    """
    pool = descriptor_pool.Default()
    found: dict[str, MethodDescriptor] = {}
    for name in services:
        try:
            methods = pool.FindServiceByName(name).methods
        except KeyError:
            raise PolicyError(f"{name}: unknown service; import its generated module first") from None
        found |= {f"/{name}/{method.name}": method for method in methods}
    return found
