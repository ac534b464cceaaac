"""The interface to the identity provider that puts roles into access tokens."""

from __future__ import annotations

from typing import Protocol


class RoleUpdateFailed(Exception):
    """The provider did not apply a role change, or may not have applied it.

    Args:
        reason: Constant in snake_case for logs and metrics, such as `role_unknown`.
        outage: Whether the provider is unavailable, so that other changes would fail too.
        uncertain: Whether the provider may still apply the change.
        detail: For the log: what happened.
    """

    def __init__(
        self, reason: str, *, outage: bool = False, uncertain: bool = False, detail: str = ""
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.outage = outage
        self.uncertain = uncertain
        self.detail = detail


class RoleDirectory(Protocol):
    """The roles of the users of an identity provider."""

    async def set_role(self, subject: str, role: str, *, granted: bool) -> None:
        """Grant or revoke a role; repeating it has no effect.

        Args:
            subject: `sub` of the user at the provider.
            role: Name of the role.
            granted: True to grant the role, False to revoke it.

        Raises:
            RoleUpdateFailed: The change was not applied, or may not have been applied.
        """
        ...
