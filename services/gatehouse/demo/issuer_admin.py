"""The admin calls of Keycloak that the tour needs; the embedded issuer answers them too."""

from __future__ import annotations

import time

import httpx

from gatehouse.demo.errors import DemoError
from gatehouse.settings import Profile

_KEY_PROVIDER = "org.keycloak.keys.KeyProvider"


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
        self._realm = rest.partition("/")[0]

    async def add_signing_key(self) -> None:
        """Makes a key that signs from now on, beside the old ones, which still verify.

        Raises:
            DemoError: The issuer refuses, or gives no answer.
        """
        now = time.time()
        component = {
            "name": f"tour-{now:.0f}",
            "providerId": "ecdsa-generated",
            "providerType": _KEY_PROVIDER,
            "config": {
                # The newest wins over every key that an earlier tour has left.
                "priority": [f"{now:.0f}"],
                "enabled": ["true"],
                "active": ["true"],
                "ecdsaEllipticCurveKey": ["P-256"],
            },
        }
        url = f"{self._base}/admin/realms/{self._realm}/components"
        try:
            answer = await self._http.post(url, headers=await self._headers(), json=component)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise self._fault(error) from None

    async def _headers(self) -> dict[str, str]:
        word = self._profile.issuer_admin_password
        answer = await self._http.post(
            f"{self._base}/realms/master/protocol/openid-connect/token",
            data={
                "grant_type": "password",
                "client_id": "admin-cli",
                "username": self._profile.issuer_admin_user,
                "password": word.get_secret_value() if word is not None else "",
            },
        )
        answer.raise_for_status()
        return {"Authorization": f"Bearer {answer.json()['access_token']}"}

    def _fault(self, error: httpx.HTTPError) -> DemoError:
        return DemoError(
            f"{self._base}: refuses its admin calls ({type(error).__name__}); check `issuer_admin_user` and "
            "`issuer_admin_password` of the profile"
        )
