"""Checks of secrets: set, without stray white space, and in files that others cannot read."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence

from gatehouse.runtime.doctor.result import Result, Status
from gatehouse.settings import SecretValue, Settings, secret_values

_CHECK = "secrets"


def check_secrets(settings: Settings) -> Sequence[Result]:
    """Return a result for each problem of a secret, or one if there is none."""
    secrets = list(secret_values(settings))
    problems = [result for secret in secrets for result in _check(secret)]
    files = sum(secret.file is not None for secret in secrets)
    return problems or [Result(_CHECK, Status.OK, f"{len(secrets)} set, {files} of them in files")]


def _check(secret: SecretValue) -> Iterator[Result]:
    place = f"{secret.name}: {secret.file}" if secret.file else secret.name
    if secret.value == "":
        yield Result(_CHECK, Status.FAILED, f"{place}: empty; set it")
    elif secret.value is not None and secret.value != secret.value.strip():
        yield Result(
            _CHECK,
            Status.FAILED,
            f"{place}: begins or ends with white space, such as a newline; remove it",
        )
    if secret.file is None:
        return
    try:
        mode = stat.S_IMODE(secret.file.stat().st_mode)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        detail = f"{place}: cannot be read ({reason}); fix its path or permissions"
        yield Result(_CHECK, Status.FAILED, detail)
        return
    if mode & stat.S_IRWXO:
        yield Result(
            _CHECK,
            Status.WARNING,
            f"{place}: every user of this machine can read it (mode {mode:04o}); run: chmod o= {secret.file}",
        )
