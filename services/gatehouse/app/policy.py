"""The access policy of all services, without a server, a database or an issuer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.descriptor import MethodDescriptor

from gatehouse.app.services import SERVICES
from gatehouse.rpc import AccessRule, Policy, RpcType


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """An RPC with its type and access rule. `name` is `package.Service/Method`."""

    service: str
    name: str
    rpc_type: RpcType
    rule: AccessRule

    @property
    def method(self) -> str:
        """Name of the method without its service."""
        return self.name.partition("/")[2]


def load_policy() -> Policy:
    """Return the policy of all services."""
    methods = {path: method for _, path, method in _methods()}
    return Policy.of(methods, methods)


def policy_scopes() -> frozenset[str]:
    """Return all scopes that access rules require."""
    return frozenset(scope for rule in load_policy().rules.values() for scope in rule.scopes)


def policy_rows() -> list[PolicyRow]:
    """Return a row for each RPC, by service, in the order of the protos."""
    policy = load_policy()
    return [
        PolicyRow(
            service,
            path[1:],
            RpcType.of(client_streaming=method.client_streaming, server_streaming=method.server_streaming),
            policy[path],
        )
        for service, path, method in _methods()
    ]


def _methods() -> Iterator[tuple[str, str, MethodDescriptor]]:
    for name, spec in SERVICES.items():
        for path, method in zip(spec.paths(), spec.descriptor.methods, strict=True):
            yield name, path, method
