"""The users that pages name, as far as the caller may read them."""

# <part admin/>

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence

from gatehouse.users.v1 import users_pb2
from gatehouse_console.sessions import Session
from gatehouse_console.site import Site
from gatehouse_console.unary import Answer, ask

MAX_SUGGESTED = 100


def as_user_id(text: str) -> str | None:
    """Return a user id as services write it, None if the text is not one."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None


async def find_user(site: Site, session: Session, text: str) -> tuple[str | None, Answer | None]:
    """Return the id of the user that an id or an email address names, None if there is none.

    Returns:
        The id, and the call that failed, if one did.
    """
    user_id = as_user_id(text)
    if user_id is not None:
        return user_id, None
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    request = users_pb2.ListUsersRequest(page_size=2, filter=f'email = "{quoted}"')
    answer = await ask(site, session, "users", "ListUsers", request)
    if not answer.ok:
        return None, answer
    # The filter has wildcards, and a change must be of exactly the user that was named.
    found = [user.user_id for user in answer.response.users if user.email.casefold() == text.casefold()]
    return (found[0] if len(found) == 1 else None), None


async def suggest_users(site: Site, session: Session) -> Sequence[users_pb2.User]:
    """Return some users, none if the caller may not list them."""
    request = users_pb2.ListUsersRequest(page_size=MAX_SUGGESTED, order_by="email")
    answer = await ask(site, session, "users", "ListUsers", request)
    return list(answer.response.users) if answer.ok else []


async def look_up(site: Site, session: Session, ids: Iterable[str]) -> Mapping[str, users_pb2.User]:
    """Return users by their ids; those that do not exist, or that the caller may not read, are missing."""
    requests = [users_pb2.LookupUsersRequest(user_id=each) for each in dict.fromkeys(ids)]
    if not requests:
        return {}
    answer = await ask(site, session, "users", "LookupUsers", *requests)
    return {found.user_id: found.user for found in answer.outcome.responses if found.HasField("user")}
