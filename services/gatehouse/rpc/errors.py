"""Turn exceptions into statuses (AIP-193): OAuth errors, domain errors and unexpected ones."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from structlog.typing import FilteringBoundLogger

from gatehouse import domain
from gatehouse.oauth import (
    InsufficientScope,
    InsufficientUserAuthentication,
    InvalidRequest,
    IssuerUnavailable,
    OAuthError,
    Refusal,
)
from gatehouse.rpc.call import Call, Method, Next, Status, Trailers

ERROR_DOMAIN = "gatehouse"
REALM = "gatehouse"
_DETAILS_KEY = "grpc-status-details-bin"

_DOMAIN_CODES: dict[type[domain.DomainError], grpc.StatusCode] = {
    domain.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    domain.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    domain.NotFound: grpc.StatusCode.NOT_FOUND,
    domain.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    domain.Aborted: grpc.StatusCode.ABORTED,
    domain.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    domain.OutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    domain.Unavailable: grpc.StatusCode.UNAVAILABLE,
}


class StatusError(Exception):
    """End the call with `status`. For this package and `context.abort`; handlers raise domain errors."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.code.name)
        self.status = status


def error_info(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    """Return an ErrorInfo with Gatehouse's domain."""
    return error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN, metadata=metadata)


def field_violations(*violations: tuple[str, str, str]) -> error_details_pb2.BadRequest:
    """Return a BadRequest with violations (field path, reason, description)."""
    return error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=field, reason=reason, description=text)
            for field, reason, text in violations
        ]
    )


def status_of_domain_error(error: domain.DomainError) -> Status:
    """Return the status of a domain error."""
    code = next(
        (c for t, c in _DOMAIN_CODES.items() if isinstance(error, t)), grpc.StatusCode.FAILED_PRECONDITION
    )
    details: tuple[Any, ...] = (error_info(error.reason),)
    if isinstance(error, domain.InvalidArgument):
        details += (field_violations((error.field, error.reason, error.message)),)
    return Status(code, error.message, error.reason, details, cause=error.cause)


def challenge(error: Refusal | None, scopes: str) -> str:
    """Return the value of `www-authenticate` (RFC 6750 section 3, RFC 9470 section 3).

    Args:
        error: Why the call is refused; None if it has no credentials (RFC 6750 section 3.1).
        scopes: The scopes that the RPC needs, separated by spaces.
    """
    parts = [f'realm="{REALM}"']
    if error is not None:
        parts.append(f'error="{error.code}"')
        parts.append(f'error_description="{error.reason.replace("_", " ")}"')
    if isinstance(error, InsufficientUserAuthentication):
        if error.acr_values:
            parts.append(f'acr_values="{error.acr_values}"')
        if error.max_age is not None:
            parts.append(f"max_age={error.max_age}")
    if scopes:
        parts.append(f'scope="{scopes}"')
    return "Bearer " + ", ".join(parts)


_MISSING = "missing access token"
_TEXTS: dict[type[OAuthError], tuple[grpc.StatusCode, str]] = {
    InsufficientScope: (grpc.StatusCode.PERMISSION_DENIED, "the access token lacks a required scope or role"),
    InsufficientUserAuthentication: (
        grpc.StatusCode.UNAUTHENTICATED,
        "a stronger or more recent login is required",
    ),
    InvalidRequest: (
        grpc.StatusCode.UNAUTHENTICATED,
        "malformed authorization metadata; send exactly one bearer token",
    ),
}


def status_of_oauth_error(error: OAuthError, method: Method) -> Status:
    """Return the status of a refusal, or of an unavailable issuer."""
    if not isinstance(error, Refusal):
        cause = error.reason.upper() if isinstance(error, IssuerUnavailable) else "ISSUER_UNAVAILABLE"
        return Status(
            grpc.StatusCode.UNAVAILABLE,
            "the access token cannot be verified now; retry later",
            "ISSUER_UNAVAILABLE",
            (error_info("ISSUER_UNAVAILABLE", cause=cause),),
            cause=cause,
        )
    scopes = " ".join(sorted(method.rule.scopes))
    code, text = _TEXTS.get(type(error), (grpc.StatusCode.UNAUTHENTICATED, "invalid access token"))
    missing = error.reason == "token_missing"
    metadata = {"method": method.name}
    if isinstance(error, InsufficientScope) and scopes:
        metadata["required_scopes"] = scopes
    return Status(
        code,
        _MISSING if missing else text,
        error.reason.upper(),
        (error_info(error.reason.upper(), **metadata),),
        (("www-authenticate", challenge(None if missing else error, scopes)),),
    )


def trailers_of(call: Call, status: Status) -> Trailers:
    """Return the trailing metadata of a call that failed."""
    trailers = (*(status.trailers or call.trailers), ("x-request-id", call.request_id))
    if status.details:
        message = status_pb2.Status(code=status.code.value[0], message=status.message)
        for detail in status.details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            message.details.append(packed)
        trailers += ((_DETAILS_KEY, message.SerializeToString()),)
    return trailers


_CANCELLED = Status(grpc.StatusCode.CANCELLED, "the call was cancelled", "CANCELLED")
_EXPIRED = Status(grpc.StatusCode.DEADLINE_EXCEEDED, "deadline exceeded", "DEADLINE_EXCEEDED")


def _is_expired(call: Call) -> bool:
    remaining = call.deadline_seconds()
    return remaining is not None and remaining <= 0


class ErrorsInterceptor:
    """Turn every exception into a status; an unexpected one becomes INTERNAL with an error id.

    Args:
        logger: Gets a line with the error id, and the type and place of the exception.
    """

    def __init__(self, logger: FilteringBoundLogger) -> None:
        self._logger = logger

    def intercept(self, method: Method, call_next: Next) -> Next:
        """See Interceptor.intercept."""

        async def handle(call: Call) -> None:
            try:
                await call_next(call)
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or not task.cancelling():
                    # The handler awaited something that was cancelled, but the call was not. gRPC would send
                    # no response at all.
                    call.status = self._unexpected(call, error)
                    return
                call.status = _EXPIRED if _is_expired(call) else _CANCELLED
                raise
            except StatusError as error:
                call.status = error.status
            except domain.DomainError as error:
                call.status = status_of_domain_error(error)
            except OAuthError as error:
                call.status = status_of_oauth_error(error, method)
            except Exception as error:  # noqa: BLE001 - gRPC would send its text to the caller
                call.status = self._unexpected(call, error)

        return handle

    def _unexpected(self, call: Call, error: BaseException) -> Status:
        if _is_expired(call):
            return _EXPIRED  # the error is a consequence
        call.error_id = secrets.token_hex(8)
        # The text of an exception can contain a secret or a value of the request; type and place cannot.
        self._logger.error(
            "unexpected error",
            error_id=call.error_id,
            method=call.method.name,
            error_type=f"{type(error).__module__}.{type(error).__qualname__}",
            error_at=_place(error),
        )
        return Status(
            grpc.StatusCode.INTERNAL,
            f"internal error {call.error_id}",
            "INTERNAL",
            (error_info("INTERNAL", error_id=call.error_id),),
        )


def _place(error: BaseException) -> str:
    """Return `module.function:line` of the innermost frame in Gatehouse, or else of the outermost frame."""
    trace = error.__traceback__
    place = "?"
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "?")
        if str(module).startswith("gatehouse.") or place == "?":
            place = f"{module}.{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
