"""PublicService over gRPC."""

import psycopg

from gatehouse.public.v1 import public_pb2 as pb
from tests.public.conftest import Public


async def test_a_stranger_learns_how_to_get_in(public: Public) -> None:
    info = await public.stub.GetPublicInfo(pb.GetPublicInfoRequest())
    assert list(info.authorization_servers) == ["https://issuer.test"]
    rules = {m.method: m.access for m in info.methods}
    assert list(rules["gatehouse.users.v1.UserService/DeleteUser"].scopes) == ["admin", "delete:users"]
    assert rules["gatehouse.users.v1.UserService/GetCurrentUser"].authenticated
    assert "read:users" in info.scopes_supported
    assert [n.text for n in info.notices] == ["Welcome to Gatehouse."]


async def test_notices_are_those_in_force_newest_first(public: Public, database_urls: dict[str, str]) -> None:
    async with await psycopg.AsyncConnection.connect(database_urls["owner"], autocommit=True) as owner:
        for text, start, end in (
            ("over", "-2 hours", "-1 hour"),
            ("now, with an end", "-1 hour", "1 hour"),
            ("not yet", "1 hour", "2 hours"),
            ("newest", "-1 minute", None),
        ):
            await owner.execute(
                "INSERT INTO public_info.notices VALUES"
                " (gen_random_uuid(), %s, now() + %s::interval, now() + %s::interval)",
                [text, start, end],
            )
    info = await public.stub.GetPublicInfo(pb.GetPublicInfoRequest())
    assert [n.text for n in info.notices] == ["newest", "now, with an end", "Welcome to Gatehouse."]


async def test_a_stranger_needs_no_token_and_one_that_is_sent_is_not_looked_at(public: Public) -> None:
    public.verifier.asked.clear()
    await public.stub.GetPublicInfo(pb.GetPublicInfoRequest())
    assert public.verifier.asked == []
