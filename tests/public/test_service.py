"""PublicService over gRPC."""

from gatehouse.public.v1 import public_pb2 as pb

from tests.support.services import Services


async def test_a_stranger_learns_how_to_get_in(services: Services) -> None:
    info = await services.public.GetPublicInfo(pb.GetPublicInfoRequest())
    assert list(info.authorization_servers) == ["https://issuer.test"]
    rules = {m.method: m.access for m in info.methods}
    assert list(rules["gatehouse.users.v1.UserService/DeleteUser"].scopes) == ["admin", "delete:users"]
    assert rules["gatehouse.users.v1.UserService/GetCurrentUser"].authenticated
    assert "read:users" in info.scopes_supported
    assert [n.text for n in info.notices] == ["Welcome to Gatehouse."]
