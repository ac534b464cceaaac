"""The faults that are in effect, and the kinds that they can be of."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

from pydantic import Discriminator, Tag

from gatehouse_testbed.bed.faults import (
    DATABASE,
    ISSUER,
    NETWORK,
    DatabaseFault,
    IssuerFault,
    NetworkFault,
    RpcFault,
)


def _kind(value: Any) -> str:
    target = str(value.get("target", "") if isinstance(value, dict) else getattr(value, "target", ""))
    prefixes = {ISSUER: "issuer", NETWORK: "network"}
    by_prefix = next((kind for prefix, kind in prefixes.items() if target.startswith(prefix)), "rpc")
    return "database" if target == DATABASE else by_prefix


AnyFault = RpcFault | IssuerFault | DatabaseFault | NetworkFault
Fault = Annotated[
    Annotated[RpcFault, Tag("rpc")]
    | Annotated[IssuerFault, Tag("issuer")]
    | Annotated[DatabaseFault, Tag("database")]
    | Annotated[NetworkFault, Tag("network")],
    Discriminator(_kind),
]
"""A fault of the kind that its target names."""
F = TypeVar("F", RpcFault, IssuerFault, NetworkFault)


class Faults:
    """The faults that are in effect, oldest first, by their ids."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._faults: dict[str, AnyFault] = {}

    def add(self, fault: AnyFault) -> str:
        """Add a fault and return its id."""
        name = f"fault-{next(self._ids)}"
        self._faults[name] = fault
        return name

    def all(self) -> dict[str, AnyFault]:
        """Return all faults by their ids."""
        return dict(self._faults)

    def remove(self, name: str) -> AnyFault:
        """Remove a fault and return it; requests that wait for it go on.

        Raises:
            KeyError: There is no such fault.
        """
        fault = self._faults.pop(name)
        if not isinstance(fault, DatabaseFault):
            fault.end()
        return fault

    def of(self, kind: type[F]) -> Iterator[F]:
        """Yield the faults of one kind."""
        return (fault for fault in list(self._faults.values()) if isinstance(fault, kind))
