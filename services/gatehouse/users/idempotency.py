"""Request ids (AIP-155): a repeated request gets the response of the first one."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gatehouse.domain import InvalidArgument
from gatehouse.users.tables import requests

RETENTION = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class IdempotentRequest:
    """A request with an id.

    Attributes:
        issuer: Issuer of the caller.
        subject: `sub` of the caller; request ids are separate for each caller.
        request_id: Id that the caller chose.
        fingerprint: Hash of the request.
    """

    issuer: str
    subject: str
    request_id: uuid.UUID
    fingerprint: bytes


async def find_response(connection: AsyncConnection, request: IdempotentRequest) -> bytes | None:
    """Return the response to an earlier request with this id, or None if there was none.

    Holds a lock until the transaction ends, so that a concurrent request with the same id waits.

    Raises:
        InvalidArgument: The earlier request was a different one.
    """
    key = f"{request.issuer}\n{request.subject}\n{request.request_id}"
    await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(key, 0))))
    row = (
        await connection.execute(
            sa.select(requests).where(
                requests.c.issuer == request.issuer,
                requests.c.subject == request.subject,
                requests.c.request_id == request.request_id,
            )
        )
    ).one_or_none()
    if row is None:
        return None
    if bytes(row.fingerprint) != request.fingerprint:
        raise InvalidArgument(
            "request_id",
            "REQUEST_ID_REUSED",
            "request_id: already used for another request; choose a new one",
        )
    return bytes(row.response)


async def save_response(
    connection: AsyncConnection, request: IdempotentRequest, response: bytes, now: datetime
) -> None:
    """Save the response to a request."""
    await connection.execute(
        requests.insert().values(
            issuer=request.issuer,
            subject=request.subject,
            request_id=request.request_id,
            fingerprint=request.fingerprint,
            response=response,
            create_time=now,
        )
    )
