"""From exceptions to statuses (AIP-193): refusals, domain errors, and everything nobody expected."""

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
from gatehouse.rpc.call import Call, Method, Next, Status

ERROR_DOMAIN = "gatehouse"
REALM = "gatehouse"
_DETAILS_KEY = "grpc-status-details-bin"

_DOMAIN_CODES: dict[type[domain.DomainError], grpc.StatusCode] = {
    domain.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    domain.NotFound: grpc.StatusCode.NOT_FOUND,
    domain.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    domain.Aborted: grpc.StatusCode.ABORTED,
    domain.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    domain.OutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    domain.Unavailable: grpc.StatusCode.UNAVAILABLE,
}


class StatusError(Exception):
    """Ends the call with `status`; for this room and for `context.abort`, handlers raise domain errors."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.code.name)
        self.status = status


def error_info(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    """Makes an ErrorInfo of this domain."""
    return error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN, metadata=metadata)


def field_violations(*violations: tuple[str, str, str]) -> error_details_pb2.BadRequest:
    """Makes a BadRequest of (field path, reason, description)."""
    return error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=field, reason=reason, description=text)
            for field, reason, text in violations
        ]
    )


def status_of_domain_error(error: domain.DomainError) -> Status:
    """Makes the status of a domain error."""
    code = next(
        (c for t, c in _DOMAIN_CODES.items() if isinstance(error, t)), grpc.StatusCode.FAILED_PRECONDITION
    )
    details: tuple[Any, ...] = (error_info(error.reason),)
    if isinstance(error, domain.InvalidArgument):
        details += (field_violations((error.field, error.reason, error.message)),)
    return Status(code, error.message, error.reason, details)


def challenge(error: Refusal | None, scopes: str) -> str:
    """Makes the value of `www-authenticate` (RFC 6750 section 3, RFC 9470 section 3).

    Args:
        error: Why the caller is refused; None when it showed no credentials (RFC 6750 section 3.1).
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


_MISSING = "no access token was sent"
_TEXTS: dict[type[OAuthError], tuple[grpc.StatusCode, str]] = {
    InsufficientScope: (grpc.StatusCode.PERMISSION_DENIED, "the access token does not permit this call"),
    InsufficientUserAuthentication: (
        grpc.StatusCode.UNAUTHENTICATED,
        "the login behind the access token is not strong or recent enough",
    ),
    InvalidRequest: (grpc.StatusCode.UNAUTHENTICATED, "the authorization metadata is malformed"),
}


def status_of_oauth_error(error: OAuthError, method: Method) -> Status:
    """Makes the status of a refusal, or of an issuer that is away."""
    if not isinstance(error, Refusal):
        reason = error.reason.upper() if isinstance(error, IssuerUnavailable) else "ISSUER_UNAVAILABLE"
        return Status(
            grpc.StatusCode.UNAVAILABLE,
            "the access token cannot be verified now, try again",
            "ISSUER_UNAVAILABLE",
            (error_info("ISSUER_UNAVAILABLE", cause=reason),),
        )
    scopes = " ".join(sorted(method.rule.scopes))
    code, text = _TEXTS.get(type(error), (grpc.StatusCode.UNAUTHENTICATED, "the access token is not valid"))
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


def trailers_of(call: Call, status: Status) -> tuple[tuple[str, str | bytes], ...]:
    """Makes the trailing metadata of a call that failed."""
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
_TOO_LATE = Status(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed", "DEADLINE_EXCEEDED")


def _is_late(call: Call) -> bool:
    remaining = call.deadline_seconds()
    return remaining is not None and remaining <= 0


class ErrorsInterceptor:
    """Turns every exception into a status; what nobody expected becomes INTERNAL with an error id.

    Args:
        logger: Gets the exception of an unexpected error, by type and place, with the same id.
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
                    # The handler waited for something that was cancelled; nobody cancelled this call, and
                    # gRPC would leave the caller without an answer.
                    call.status = self._unexpected(call, error)
                    return
                call.status = _TOO_LATE if _is_late(call) else _CANCELLED
                raise
            except StatusError as error:
                call.status = error.status
            except domain.DomainError as error:
                call.status = status_of_domain_error(error)
            except OAuthError as error:
                call.status = status_of_oauth_error(error, method)
            except Exception as error:  # noqa: BLE001 - the net under everything
                call.status = self._unexpected(call, error)

        return handle

    def _unexpected(self, call: Call, error: BaseException) -> Status:
        if _is_late(call):
            return _TOO_LATE  # whatever broke, broke because the time was over
        call.error_id = secrets.token_hex(8)
        place, line = _place(error)
        # The text of the exception may hold a value of the request, or a secret; its type and place do not.
        self._logger.error(
            "unexpected error",
            error_id=call.error_id,
            method=call.method.name,
            error_type=f"{type(error).__module__}.{type(error).__qualname__}",
            error_at=f"{place}:{line}",
        )
        return Status(
            grpc.StatusCode.INTERNAL,
            f"internal error {call.error_id}",
            "INTERNAL",
            (error_info("INTERNAL", error_id=call.error_id),),
        )


def _place(error: BaseException) -> tuple[str, int]:
    trace = error.__traceback__
    place, line = "?", 0
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "?")
        if str(module).startswith("gatehouse.") or place == "?":
            place, line = f"{module}.{trace.tb_frame.f_code.co_name}", trace.tb_lineno
        trace = trace.tb_next
    return place, line
