"""The policy of all three services, without a server, a database or an issuer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from gatehouse.admin.v1 import admin_pb2
from gatehouse.public.v1 import public_pb2
from gatehouse.rpc import AccessRule, Policy, Shape
from gatehouse.users.v1 import users_pb2

SERVICES: dict[str, ServiceDescriptor] = {
    "users": users_pb2.DESCRIPTOR.services_by_name["UserService"],
    "admin": admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
    "public": public_pb2.DESCRIPTOR.services_by_name["PublicService"],
}


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """One RPC: its name, shape and rule."""

    service: str
    method: str
    shape: Shape
    rule: AccessRule

    @property
    def name(self) -> str:
        """`package.Service/Method`."""
        return f"{SERVICES[self.service].full_name}/{self.method}"


def shape_of(method: MethodDescriptor) -> Shape:
    """Returns the shape of a method."""
    if method.client_streaming:
        return Shape.BIDI_STREAMING if method.server_streaming else Shape.CLIENT_STREAMING
    return Shape.SERVER_STREAMING if method.server_streaming else Shape.UNARY


def _methods() -> Iterator[tuple[str, MethodDescriptor]]:
    for service in SERVICES.values():
        for method in service.methods:
            yield f"/{service.full_name}/{method.name}", method


def whole_policy() -> Policy:
    """Returns the policy of the three services."""
    descriptors = dict(_methods())
    return Policy.of(descriptors, descriptors)


def policy_rows() -> list[PolicyRow]:
    """Returns a row for each RPC, service by service, in the order of the protos."""
    policy = whole_policy()
    return [
        PolicyRow(short, method.name, shape_of(method), policy[f"/{service.full_name}/{method.name}"])
        for short, service in SERVICES.items()
        for method in service.methods
    ]
