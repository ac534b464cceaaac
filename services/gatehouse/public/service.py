"""RPCs of PublicService; see protos/gatehouse/public/v1/public.proto."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from gatehouse.public.repository import NoticeRepository
from gatehouse.public.v1 import public_pb2 as pb
from gatehouse.public.v1 import public_pb2_grpc
from gatehouse.rpc import AccessRule
from gatehouse.runtime.request import remaining_seconds

_Context = grpc.aio.ServicerContext[Any, Any]


class PublicService(public_pb2_grpc.PublicServiceServicer):
    """Metadata of this system for clients: the gRPC counterpart of RFC 9728.

    Args:
        repository: Reads notices.
        version: Version of the software.
        issuers: Issuers whose tokens are accepted.
        rules: Access rules of all services, by path.
    """

    def __init__(
        self,
        repository: NoticeRepository,
        *,
        version: str,
        issuers: Sequence[str],
        rules: Mapping[str, AccessRule],
    ) -> None:
        self._repository = repository
        self._info = pb.GetPublicInfoResponse(
            name="gatehouse",
            version=version,
            authorization_servers=issuers,
            scopes_supported=sorted({scope for rule in rules.values() for scope in rule.scopes}),
            methods=[
                pb.MethodAccess(method=path.lstrip("/"), access=rule.to_proto())
                for path, rule in sorted(rules.items())
            ],
        )

    async def GetPublicInfo(
        self, request: pb.GetPublicInfoRequest, context: _Context
    ) -> pb.GetPublicInfoResponse:
        """See the proto."""
        response = pb.GetPublicInfoResponse()
        response.CopyFrom(self._info)
        response.notices.extend(await self._repository.list_active(remaining_seconds()))
        return response
