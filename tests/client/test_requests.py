"""Requests that a call reads from a file while it runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gatehouse.client.requests import RequestLines
from gatehouse.settings import ConfigurationError
from gatehouse.users.v1 import users_pb2

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
