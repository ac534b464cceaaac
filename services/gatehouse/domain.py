"""Errors that services raise; `rpc` maps each one to a gRPC status (AIP-193).

    DomainError
    ├── InvalidArgument      INVALID_ARGUMENT, with BadRequest
    ├── PermissionDenied     PERMISSION_DENIED
    ├── NotFound             NOT_FOUND
    ├── AlreadyExists        ALREADY_EXISTS
    ├── Aborted              ABORTED
    ├── FailedPrecondition   FAILED_PRECONDITION
    ├── OutOfRange           OUT_OF_RANGE
    └── Unavailable          UNAVAILABLE

Messages are constants; they never contain values from the request.
"""

from __future__ import annotations


class DomainError(Exception):
    """An error that the caller can understand and act on.

    Args:
        reason: Constant in UPPER_SNAKE_CASE for ErrorInfo (AIP-193), such as `USER_NOT_FOUND`.
        message: What is wrong and what to do about it.
        cause: Constant in UPPER_SNAKE_CASE for the log, if `reason` has several causes.
    """

    def __init__(self, reason: str, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.cause = cause


class InvalidArgument(DomainError):
    """A field of the request is invalid.

    Args:
        field: Path of the field, such as `user.email`.
        reason: See DomainError.
        message: See DomainError.
    """

    def __init__(self, field: str, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.field = field


class PermissionDenied(DomainError):
    """The caller may not do this, for a reason that the access rule of the RPC does not express."""


class NotFound(DomainError):
    """The resource does not exist."""


class AlreadyExists(DomainError):
    """The resource already exists."""


class Aborted(DomainError):
    """Another writer changed the resource first: its etag is not the one in the request (AIP-154)."""


class FailedPrecondition(DomainError):
    """The system is not in the state that the request needs."""


class OutOfRange(DomainError):
    """The request refers to a position outside the available range."""


class Unavailable(DomainError):
    """A dependency is unavailable; the caller may retry."""
