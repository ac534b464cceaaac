"""PublicService over gRPC."""

from __future__ import annotations

from gatehouse.public.v1 import public_pb2 as pb
from gatehouse.public.v1 import public_pb2_grpc
from tests.support.rpc import TableVerifier
from tests.support.services import run_sql


async def test_info_has_issuers_scopes_rules_and_notices(
    public: public_pb2_grpc.PublicServiceAsyncStub,
) -> None:
    info = await public.GetPublicInfo(pb.GetPublicInfoRequest())
    assert list(info.authorization_servers) == ["https://issuer.test"]
    rules = {method.method: method.access for method in info.methods}
    assert list(rules["gatehouse.users.v1.UserService/DeleteUser"].scopes) == ["admin", "delete:users"]
    assert rules["gatehouse.users.v1.UserService/GetCurrentUser"].authenticated
    assert "read:users" in info.scopes_supported
    assert "Welcome to Gatehouse." in [notice.text for notice in info.notices]


async def test_notices_are_the_active_ones_newest_first(
    public: public_pb2_grpc.PublicServiceAsyncStub, database_urls: dict[str, str]
) -> None:
    for text, start, end in (
        ("over", "-2 hours", "-1 hour"),
        ("with an end", "-1 hour", "1 hour"),
        ("not yet active", "1 hour", "2 hours"),
        ("newest", "-1 minute", None),
    ):
        await run_sql(
            database_urls["owner"],
            "INSERT INTO public_info.notices VALUES"
            " (gen_random_uuid(), %s, now() + %s::interval, now() + %s::interval)",
            [text, start, end],
        )
    info = await public.GetPublicInfo(pb.GetPublicInfoRequest())
    assert [notice.text for notice in info.notices] == ["newest", "with an end", "Welcome to Gatehouse."]


async def test_a_token_is_neither_needed_nor_verified(
    public: public_pb2_grpc.PublicServiceAsyncStub, verifier: TableVerifier
) -> None:
    metadata = (("authorization", "Bearer anything"),)
    for sent in ((), metadata):
        await public.GetPublicInfo(pb.GetPublicInfoRequest(), metadata=sent)
    assert verifier.asked == []
