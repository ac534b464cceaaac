"""Errors that the services speak of; `rpc` maps each to a status once (AIP-193).

    DomainError
    ├── InvalidArgument      INVALID_ARGUMENT, with BadRequest
    ├── NotFound             NOT_FOUND
    ├── AlreadyExists        ALREADY_EXISTS
    ├── Aborted              ABORTED: another writer was first, read again
    ├── FailedPrecondition   FAILED_PRECONDITION
    ├── OutOfRange           OUT_OF_RANGE
    └── Unavailable          UNAVAILABLE: a part that is needed is away, try again

Texts are constants; they never hold a value from the request.
"""

from __future__ import annotations


class DomainError(Exception):
    """Something a caller can understand and mend.

    Args:
        reason: A constant in UPPER_SNAKE_CASE for ErrorInfo (AIP-193), such as `USER_NOT_FOUND`.
        message: One sentence for a person.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class InvalidArgument(DomainError):
    """A field of the request cannot be used.

    Args:
        field: Path of the field, such as `user.email`.
        reason: As in DomainError.
        message: As in DomainError.
    """

    def __init__(self, field: str, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.field = field


class NotFound(DomainError):
    """The resource is not there."""


class AlreadyExists(DomainError):
    """The resource is there already."""


class Aborted(DomainError):
    """Another writer was first: the etag is not the stored one (AIP-154)."""


class FailedPrecondition(DomainError):
    """The state of the system does not allow it."""


class OutOfRange(DomainError):
    """A position is no longer, or not yet, there."""


class Unavailable(DomainError):
    """A part that is needed is away; the caller may try again."""
