"""What is written to an identity provider: the roles of its users. HTTP, and no gRPC, no SQL."""

from gatehouse.provider.keycloak import KeycloakRoles
from gatehouse.provider.roles import RoleDirectory, RoleNotApplied

__all__ = ["KeycloakRoles", "RoleDirectory", "RoleNotApplied"]
