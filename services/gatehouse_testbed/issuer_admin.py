"""The admin calls of Keycloak with which the tour rotates keys; the embedded issuer answers them too."""

from __future__ import annotations

import time
from typing import Any

import httpx

from gatehouse.client.profile import Profile
from gatehouse_testbed.errors import DemoError

# Longer than any token lives that a key of a tour may have signed.
KEEP_SECONDS = 900
_KEY_PROVIDER = "org.keycloak.keys.KeyProvider"
# The priority of a tour's key is when it was made, so that the newest signs; a realm's own are small.
_A_MOMENT = 1_000_000_000


class IssuerAdmin:
    """Administers the keys of the profile's realm.

    Args:
        http: Client to ask with.
        profile: Where the issuer is, and the password of its administrator.
    """

    def __init__(self, http: httpx.AsyncClient, profile: Profile) -> None:
        self._http = http
        self._profile = profile
        # Where the issuer is reached, which may differ from how it is named.
        self._base, _, rest = (profile.discovery_url or profile.issuer).partition("/realms/")
        self._components = f"{self._base}/admin/realms/{rest.partition('/')[0]}/components"

    async def seconds_since_rotation(self) -> float | None:
        """Returns how long ago a tour has rotated the keys last; None when none has.

        Raises:
            DemoError: The issuer refuses, or gives no answer.
        """
        made = await self._made_by_tours()
        return time.time() - max(made.values()) if made else None

    async def rotate(self) -> None:
        """Makes a key that signs from now on; the old ones still verify, those of tours long ago go.

        Raises:
            DemoError: The issuer refuses, or gives no answer.
        """
        now = int(time.time())
        config = {
            "priority": [str(now)],
            "enabled": ["true"],
            "active": ["true"],
            "ecdsaEllipticCurveKey": ["P-256"],
        }
        key = {"name": f"tour-{now}", "providerId": "ecdsa-generated", "providerType": _KEY_PROVIDER}
        await self._ask("POST", self._components, json=key | {"config": config})
        for component_id, moment in (await self._made_by_tours()).items():
            if now - moment > KEEP_SECONDS:
                await self._ask("DELETE", f"{self._components}/{component_id}")

    async def _made_by_tours(self) -> dict[str, int]:
        """Returns the keys that tours have made, by component, and when each was made."""
        answer = await self._ask("GET", self._components, params={"type": _KEY_PROVIDER})
        try:
            # A provider of keys need not have a priority of its own.
            found = {str(c["id"]): int(c["config"].get("priority", ["0"])[0]) for c in answer.json()}
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise self._fault(error) from None
        return {component: moment for component, moment in found.items() if moment > _A_MOMENT}

    async def _ask(self, method: str, url: str, **more: Any) -> httpx.Response:
        word = self._profile.issuer_admin_password
        login = {
            "grant_type": "password",
            "client_id": "admin-cli",
            "username": self._profile.issuer_admin_user,
            "password": word.get_secret_value() if word is not None else "",
        }
        try:
            token = await self._http.post(
                f"{self._base}/realms/master/protocol/openid-connect/token", data=login
            )
            token.raise_for_status()
            headers = {"Authorization": f"Bearer {token.json()['access_token']}"}
            answer = await self._http.request(method, url, headers=headers, **more)
            answer.raise_for_status()
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise self._fault(error) from None
        return answer

    def _fault(self, error: Exception) -> DemoError:
        return DemoError(
            f"{self._base}: refuses its admin calls ({type(error).__name__}); check `issuer_admin_user` and "
            "`issuer_admin_password` of the profile"
        )
