"""Send unknown tokens all at once, from a process of its own: `strangers.py PORT CA_FILE COUNT`.

Prints the codes of the calls, as JSON. In the process of the suite the load would wait for these calls.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from gatehouse.users.v1 import users_pb2 as pb
from gatehouse.users.v1 import users_pb2_grpc

# The limit of concurrent calls on one connection is 100.
PER_CONNECTION = 90
CALL_SECONDS = 30


async def send(port: int, ca: bytes, count: int) -> Counter[str]:
    """Make `count` calls with different tokens at once and return their codes."""
    credentials = grpc.ssl_channel_credentials(ca)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    async with AsyncExitStack() as exits:
        channels = [
            await exits.enter_async_context(
                grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options)
            )
            for _ in range(-(-count // PER_CONNECTION))
        ]

        async def call(number: int) -> str:
            users: Any = users_pb2_grpc.UserServiceStub(channels[number % len(channels)])
            metadata = (("authorization", f"Bearer {secrets.token_urlsafe(32)}"),)
            done = users.ListUsers(pb.ListUsersRequest(), metadata=metadata, timeout=CALL_SECONDS)
            return str((await done.code()).name)

        return Counter(await asyncio.gather(*(call(number) for number in range(count))))


if __name__ == "__main__":
    port, file, count = sys.argv[1:]
    print(json.dumps(asyncio.run(send(int(port), Path(file).read_bytes(), int(count)))))
