"""Rotation of signing keys over the admin API."""

from tests.issuers.idp import Idp, granted, kid_of


async def test_new_key_with_higher_priority_signs_at_once(idp: Idp) -> None:
    old = await idp.service_token()
    async with idp.signing_key():
        new = await idp.service_token()
        assert kid_of(new) != kid_of(old)
        assert {kid_of(old), kid_of(new)} <= (await idp.jwks()).keys()
        assert await idp.is_active(old)
        assert await idp.is_active(new)


async def test_new_key_with_lower_priority_is_published_but_does_not_sign(idp: Idp) -> None:
    old, before = await idp.service_token(), await idp.jwks()
    async with idp.signing_key(priority=50):
        assert len((await idp.jwks()).keys() - before.keys()) == 1
        assert kid_of(await idp.service_token()) == kid_of(old)


async def test_key_of_another_algorithm_does_not_sign(idp: Idp) -> None:
    old = await idp.service_token()
    async with idp.signing_key("rsa-generated"):
        assert kid_of(await idp.service_token()) == kid_of(old)


async def test_passive_key_does_not_sign_and_its_tokens_stay_active(idp: Idp) -> None:
    async with idp.signing_key() as key:
        token = await idp.service_token()
        await key.set(active="false")
        assert kid_of(token) in await idp.jwks()
        assert await idp.is_active(token)
        assert kid_of(await idp.service_token()) != kid_of(token)


async def test_tokens_of_a_disabled_key_are_inactive_until_it_is_enabled(idp: Idp) -> None:
    async with idp.signing_key() as key:
        token = await idp.service_token()
        await key.set(enabled="false")
        assert kid_of(token) not in await idp.jwks()
        assert not await idp.is_active(token)
        await key.set(enabled="true")
        assert await idp.is_active(token)


async def test_tokens_of_a_deleted_key_are_inactive_and_a_refresh_still_works(idp: Idp) -> None:
    async with idp.signing_key() as key:
        tokens = await idp.user_tokens()
        await key.delete()
        assert kid_of(tokens["access_token"]) not in await idp.jwks()
        assert not await idp.is_active(tokens["access_token"])
        again = granted(await idp.refresh(tokens["refresh_token"]))
        assert await idp.is_active(again["access_token"])


async def test_admin_api_requires_the_administrator(idp: Idp) -> None:
    place = f"{idp.base_url}/admin/realms/{idp.realm}/components"
    assert (await idp.http.post(place, json={})).status_code == 401
    token = {"Authorization": f"Bearer {await idp.user_token()}"}
    assert (await idp.http.post(place, json={}, headers=token)).status_code == 403


async def test_admin_api_lists_keys_with_priority_and_state(idp: Idp) -> None:
    async with idp.signing_key(priority=180) as key:
        await key.set(active="false")
        place = f"/{idp.realm}/components?type=org.keycloak.keys.KeyProvider"
        found = {c["id"]: c for c in (await idp.admin("GET", place)).json()}
    told = found[key.component_id]
    assert told["providerId"] == "ecdsa-generated"
    assert (told["config"]["priority"], told["config"]["active"]) == (["180"], ["false"])
