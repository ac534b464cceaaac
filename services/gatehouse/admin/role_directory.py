"""The seam between those who decide on roles and the provider that puts them into tokens."""

from __future__ import annotations

from typing import Protocol


class RoleNotApplied(Exception):
    """The provider does not have the role as it should be.

    Args:
        reason: A constant in snake_case for log lines and metrics, such as `role_unknown`.
        outage: Whether the provider is away, so that other roles would fare no better.
        uncertain: Whether the provider may still do what it was asked, later than now.
    """

    def __init__(self, reason: str, *, outage: bool = False, uncertain: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.outage = outage
        self.uncertain = uncertain


class RoleDirectory(Protocol):
    """Gives roles to the users of a provider, and takes them away."""

    async def apply(self, subject: str, role: str, *, granted: bool) -> None:
        """Sees to it that a user has a role, or has it no more; doing it again changes nothing.

        Args:
            subject: `sub` of the user at this provider.
            role: Name of the role.
            granted: Whether the user is to have it.

        Raises:
            RoleNotApplied: It is not, or not surely, so.
        """
        ...
