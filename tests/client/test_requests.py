"""Requests that a call reads from a file while it runs."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from gatehouse.client.requests import _CHUNK_BYTES, RequestLines, parse_requests
from gatehouse.settings import ConfigurationError
from gatehouse.users.v1 import users_pb2
from tests.support.eventually import eventually

LOOKUP = users_pb2.DESCRIPTOR.services_by_name["UserService"].methods_by_name["LookupUsers"]


async def test_lines_become_requests_and_empty_lines_are_ignored(tmp_path: Path) -> None:
    file = tmp_path / "requests"
    file.write_text('{"userId": "a"}\n\n{"userId": "b"}')
    with file.open() as stream:
        assert [request.user_id async for request in RequestLines(LOOKUP, stream.fileno())] == ["a", "b"]


async def test_file_that_cannot_be_read_is_an_error_of_one_line(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    requests = RequestLines(LOOKUP, descriptor)
    with pytest.raises(ConfigurationError, match=r"^standard input: cannot be read \(Is a directory\)$"):
        await anext(aiter(requests))
    assert requests.error is not None
    os.close(descriptor)


@pytest.mark.parametrize(
    "data", ['{"\\ud800": 1}', '{"userId": "\\ud800"}', "[" * 100_000, '{"userId": 1}', "[1]"]
)
def test_request_that_is_not_of_its_type_is_an_error_of_one_line(data: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^--data: not a LookupUsersRequest in JSON \([^\n]+\)$"):
        parse_requests(LOOKUP, data)


async def test_line_that_is_not_a_request_is_named(tmp_path: Path) -> None:
    file = tmp_path / "requests"
    for line in ('{"\\ud800": 1}', "{", "1", "[" * 100_000):
        file.write_text(f'{{"userId": "a"}}\n{line}\n')
        with file.open() as stream:
            requests = aiter(RequestLines(LOOKUP, stream.fileno()))
            await anext(requests)
            with pytest.raises(
                ConfigurationError, match=r"^line 2 of standard input: not a LookupUsersRequest"
            ):
                await anext(requests)


def test_lines_that_no_call_wants_any_more_are_left_without_a_traceback(tmp_path: Path) -> None:
    """The thread that reads them waits for the end of the event loop."""
    file = tmp_path / "requests"
    file.write_text('{"userId": "a"}\n' * 100_000)
    before = threading.enumerate()

    async def read_one(descriptor: int) -> None:
        requests = aiter(RequestLines(LOOKUP, descriptor))
        await anext(requests)
        # One chunk was taken, 16 wait to be taken, and one waits to join them.
        await eventually(lambda: os.lseek(descriptor, 0, os.SEEK_CUR) == 18 * _CHUNK_BYTES)

    with file.open() as stream:
        asyncio.run(read_one(stream.fileno()))
        for thread in set(threading.enumerate()).difference(before):
            thread.join(60)
