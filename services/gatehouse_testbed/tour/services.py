"""Calls to all services."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
from google.protobuf import json_format, message_factory

from gatehouse.app.services import SERVICES
from gatehouse.client.calls import Outcome, call_once, open_channel
from gatehouse.client.profile import Profile
from gatehouse.client.requests import find_method


@dataclass(frozen=True, slots=True)
class ServiceClients:
    """One channel to each service, by its name."""

    channels: Mapping[str, grpc.aio.Channel]

    async def call(
        self,
        service: str,
        method: str,
        requests: Sequence[dict[str, Any]] = ({},),
        *,
        token: str | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        timeout: float = 10.0,
    ) -> Outcome:
        """Call an RPC; of a server stream only the first response is read."""
        found = find_method(SERVICES[service].descriptor, method)
        request_type = message_factory.GetMessageClass(found.input_type)
        return await call_once(
            self.channels[service],
            found,
            [json_format.ParseDict(request, request_type()) for request in requests],
            token=token,
            limit=1 if found.server_streaming and not found.client_streaming else 0,
            timeout=timeout,
            metadata=metadata,
        )


@asynccontextmanager
async def open_services(profile: Profile) -> AsyncIterator[ServiceClients]:
    """Open the channels to all services of a profile."""
    async with AsyncExitStack() as stack:
        yield ServiceClients(
            {name: await stack.enter_async_context(open_channel(profile, name)) for name in SERVICES}
        )
