"""The ServiceSpec of PublicService."""

from __future__ import annotations

from importlib import metadata

from gatehouse.public import DEFAULT_PORT
from gatehouse.public.v1 import public_pb2
from gatehouse.runtime import BuiltService, ServiceContext, ServiceSpec
from gatehouse.settings import ServiceSettings


async def build(context: ServiceContext[ServiceSettings]) -> BuiltService:
    """Build PublicService."""
    from gatehouse.public.repository import NoticeRepository
    from gatehouse.public.service import PublicService

    return BuiltService(
        PublicService(
            NoticeRepository(context.database, context.clock),
            version=metadata.version("gatehouse"),
            issuers=[issuer.issuer for issuer in context.issuers],
            rules=context.rules,
        )
    )


SPEC = ServiceSpec(
    name="public",
    descriptor=public_pb2.DESCRIPTOR.services_by_name["PublicService"],
    default_port=DEFAULT_PORT,
    schema="public_info",
    probe="SELECT FROM public_info.notices LIMIT 1",
    build=build,
    read_only=True,
    needs_issuer=False,
)
