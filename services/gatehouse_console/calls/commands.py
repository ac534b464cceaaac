"""The same call as commands of a shell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from gatehouse.app.policy import PolicyRow
from gatehouse.client.profile import Profile
from gatehouse.client.requests import load_requests
from gatehouse.settings import ConfigurationError
from gatehouse_console.calls.draft import Draft


def commands(profile: Profile, user: str, row: PolicyRow, draft: Draft) -> Sequence[tuple[str, str]]:
    """Return the program and the command for a call, nothing if its request is not JSON."""
    try:
        data = draft.as_json()
    except ConfigurationError:
        return []
    entries = [line.strip() for line in draft.metadata.splitlines() if line.strip()]
    return [
        ("gatehouse", _gatehouse(profile, user, row, data, entries, draft.seconds)),
        ("grpcurl", _grpcurl(profile, row, draft, data, entries)),
    ]


def _gatehouse(
    profile: Profile, user: str, row: PolicyRow, data: str, entries: Sequence[str], seconds: str
) -> str:
    words = ["gatehouse", "call", row.service, row.method]
    if user in profile.passwords:
        words += ["--as", user]
    for entry in entries:
        words += ["--metadata", entry]
    return shlex.join([*words, "--timeout", seconds, "--data", data])


def _grpcurl(profile: Profile, row: PolicyRow, draft: Draft, data: str, entries: Sequence[str]) -> str:
    words = ["-plaintext"] if profile.plaintext else []
    ca_file = profile.public_ca_file or profile.ca_file
    if ca_file is not None:
        words += ["-cacert", str(ca_file)]
    if profile.server_name is not None:
        words += ["-authority", profile.server_name]
    for entry in entries:
        words += ["-H", entry]
    if draft.method.client_streaming:
        # It takes one object after the other, not a list.
        items = load_requests(draft.method, data)
        data = " ".join(json.dumps(item, ensure_ascii=False) for item in items)
    # In double quotes, so that the shell puts the token in.
    token = [] if row.rule.public else ['-H "authorization: Bearer $TOKEN"']
    target = profile.public_targets.get(row.service, profile.targets[row.service])
    options = shlex.join([*words, "-max-time", draft.seconds, "-d", data])
    return " ".join(["grpcurl", *token, options, shlex.quote(target), row.name])
