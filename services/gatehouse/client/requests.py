"""Requests of any RPC from JSON, by the compiled descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError
from typing import Any

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from gatehouse.settings import ConfigurationError

_CHUNK_BYTES = 65536


def find_method(service: ServiceDescriptor, method: str) -> MethodDescriptor:
    """Return the method of a service by its short name.

    Raises:
        ConfigurationError: There is no such method.
    """
    # A look-up in `methods_by_name` fails for a name that is not UTF-8.
    found: MethodDescriptor | None = next((m for m in service.methods if m.name == method), None)
    if found is None:
        names = ", ".join(service.methods_by_name)
        raise ConfigurationError(f"{method}: {service.name} has no such RPC; use one of {names}")
    return found


def load_requests(method: MethodDescriptor, data: str) -> list[Any]:
    """Return the JSON values of requests: an object, a list of objects, or one object per line.

    Raises:
        ConfigurationError: `data` is not JSON.
    """
    try:
        try:
            whole = _load(data)
        except json.JSONDecodeError:
            return [_load(line) for line in data.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise _invalid_request(method, "--data", error) from None
    return whole if isinstance(whole, list) else [whole]


def parse_requests(method: MethodDescriptor, data: str) -> list[Any]:
    """Parse requests; see load_requests.

    Raises:
        ConfigurationError: `data` is not JSON, not of the request type, or not one request for a unary RPC.
    """
    request_type = message_factory.GetMessageClass(method.input_type)
    items = load_requests(method, data)
    try:
        requests = [json_format.ParseDict(item, request_type()) for item in items]
    except (ValueError, TypeError, AttributeError, RecursionError, json_format.ParseError) as error:
        raise _invalid_request(method, "--data", error) from None
    if not method.client_streaming and len(requests) != 1:
        raise ConfigurationError(f"--data: {method.name} takes one request, not {len(requests)}")
    return requests


class RequestLines:
    """Requests from the lines of a file, parsed while the call runs.

    Args:
        method: RPC of the requests.
        descriptor: File descriptor to read from.
    """

    def __init__(self, method: MethodDescriptor, descriptor: int) -> None:
        self._method = method
        self._descriptor = descriptor
        self.error: ConfigurationError | None = None
        """Why the requests ended early. grpc.aio hides what an iterator of requests raises."""

    async def __aiter__(self) -> AsyncIterator[Any]:
        request_type = message_factory.GetMessageClass(self._method.input_type)
        number = 0
        try:
            async for line in _read_lines(self._descriptor):
                number += 1
                if line.strip():
                    yield json_format.ParseDict(_load(line), request_type())
        except (ValueError, TypeError, AttributeError, RecursionError, json_format.ParseError) as error:
            self.error = _invalid_request(self._method, f"line {number} of standard input", error)
            raise self.error from None
        except OSError as error:
            self.error = ConfigurationError(f"standard input: cannot be read ({error.strerror})")
            raise self.error from None


def _load(text: str) -> Any:
    """Return the value of JSON. A UnicodeEncodeError, which is a ValueError, says that it is not text."""
    value = json.loads(text)
    if "\\u" in text:  # the parser of messages fails with a SystemError for half of a surrogate pair
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _invalid_request(method: MethodDescriptor, where: str, error: Exception) -> ConfigurationError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ConfigurationError(f"{where}: not a {method.input_type.name} in JSON ({reason})")


async def _read_lines(descriptor: int) -> AsyncIterator[str]:
    """Yield the lines of a file. A thread reads them, because files and terminals cannot be awaited."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes | OSError] = asyncio.Queue(maxsize=16)

    def put(chunk: bytes | OSError) -> None:
        with contextlib.closing(chunks.put(chunk)) as putting:  # it has not begun if the loop is closed
            asyncio.run_coroutine_threadsafe(putting, loop).result()

    # The thread reads a descriptor, because a file object that is being read blocks the exit of Python. It is
    # its own, because the thread may still read when the caller has closed the file and opened another one.
    threading.Thread(target=_read_chunks, args=(os.dup(descriptor), put), daemon=True).start()
    rest = b""
    while chunk := await chunks.get():
        if isinstance(chunk, OSError):
            raise chunk
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
    yield rest.decode(errors="replace")


def _read_chunks(descriptor: int, put: Callable[[bytes | OSError], None]) -> None:
    """Read a file, and close it."""
    chunk = b"-"
    with contextlib.suppress(RuntimeError, CancelledError):  # the loop is closed, or was just now
        try:
            while chunk:
                chunk = os.read(descriptor, _CHUNK_BYTES)
                put(chunk)
        except OSError as error:
            put(error)
        finally:
            os.close(descriptor)
