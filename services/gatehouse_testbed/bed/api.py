"""The control API as a client sees it: requests, and the parts that have methods of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx

from gatehouse_testbed.errors import TestbedError

REQUEST_SECONDS = 30.0


class Api:
    """Requests of a test to a running test bed.

    Args:
        url: Its `control_url`.
    """

    def __init__(self, url: str) -> None:
        # Variables of the environment, such as those of a proxy, are not for requests to this machine.
        self._http = httpx.Client(base_url=url, timeout=REQUEST_SECONDS, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(self, verb: str, path: str, body: Any = None, **query: str) -> Any:
        """Send a request and return the JSON of the response.

        Raises:
            ValueError: The request is refused; the message says why.
            TestbedError: The test bed does not answer, or has failed.
        """
        try:
            response = self._http.request(verb, path, json=body, params=query)
        except httpx.HTTPError as error:
            raise TestbedError(
                f"the test bed does not answer ({type(error).__name__}); see whether it still runs"
            ) from None
        if response.is_server_error:
            raise TestbedError(f"the test bed has failed: {_reason(response)}")
        if not response.is_success:
            raise ValueError(_reason(response))
        return response.json() if response.content else None


def _reason(response: httpx.Response) -> str:
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError):
        return f"HTTP {response.status_code}"
    if isinstance(detail, str):
        return detail
    return "; ".join(f"{one['loc'][-1]}: {one['msg'].removeprefix('Value error, ')}" for one in detail)


class FaultsClient:
    """The faults of a test bed."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def add(self, target: str, **effects: Any) -> str:
        """Add a fault and return its id.

        Args:
            target: An RPC (`package.Service/Method`, `Method` or a pattern), `issuer/` and an endpoint
                (see `gatehouse_testbed.bed.endpoints`) or *, `database`, or `network/` and a part (the name
                of a service, issuer or database).
            effects: Attributes of RpcFault, IssuerFault, DatabaseFault or NetworkFault in
                `gatehouse_testbed.bed.faults`.

        Raises:
            ValueError: The fault is invalid; the message says why.
        """
        added: str = self._api.ask("POST", "/faults", {"target": target, **effects})["id"]
        return added

    def list(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the faults that are in effect by their ids, oldest first."""
        found: Mapping[str, Mapping[str, Any]] = self._api.ask("GET", "/faults")
        return found

    def remove(self, name: str) -> None:
        """Remove a fault.

        Raises:
            ValueError: There is no such fault.
        """
        self._api.ask("DELETE", f"/faults/{quote(name, safe='')}")

    def reset(self) -> None:
        """Remove all faults."""
        self._api.ask("DELETE", "/faults")


class ClockClient:
    """The clock of issuer and services."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def advance(self, *, seconds: float = 0, minutes: float = 0, hours: float = 0, days: float = 0) -> None:
        """Move the clock forward."""
        total = seconds + 60 * minutes + 3600 * hours + 86_400 * days
        self._api.ask("POST", "/clock", {"seconds": total})

    def skew_issuer(self, seconds: float) -> None:
        """Make the clock of the issuer wrong.

        Args:
            seconds: How far it is ahead of that of the services; it is behind if negative.
        """
        self._api.ask("POST", "/clock/skew", {"seconds": seconds})

    @property
    def ahead_seconds(self) -> float:
        """How far the clock is ahead of the real time."""
        ahead: float = self._api.ask("GET", "/clock")["ahead_seconds"]
        return ahead
