"""What a migration must not do: the rules of Squawk, and what it does not look for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.check_migrations.rendering import Problem, Rendered

# Rules of Squawk that are off by default.
ALSO = (
    "ban-add-enum-value",
    "ban-alter-policy-condition",
    "ban-alter-policy-roles",
    "ban-alter-row-level-security",
    "ban-create-policy",
    "ban-detach-inheritance",
    "ban-disable-trigger",
    "ban-drop-index",
    "ban-drop-policy",
    "ban-drop-trigger",
    "ban-replace-view-function",
    "ban-revoke",
)
# Rules about style; and the time-out for locks, which `migrate` sets.
NOT = (
    "ban-char-field",
    "prefer-bigint-over-int",
    "prefer-bigint-over-smallint",
    "prefer-identity",
    "prefer-robust-stmts",
    "prefer-text-field",
    "prefer-timestamp-tz",
    "require-enum-value-ordering",
    "require-lock-timeout",
    "require-statement-timeout",
)
_OUTSIDE = "`with op.get_context().autocommit_block():`"
_NOT_VALID = "set postgresql_not_valid=True, and validate it in a later migration"
# What to do instead, by the beginning of the rule.
ADVICE = {
    "changing-column-type": "add a column of the new type and copy, as for a rename",
    "renaming-": "add the new name and keep the old one until no release uses it",
    "ban-concurrent-index-creation-in-transaction": f"put it into {_OUTSIDE}",
    "require-concurrent-index": f"set postgresql_concurrently=True, in {_OUTSIDE}",
    "adding-not-nullable-field": "validate a constraint CHECK (... IS NOT NULL) first",
    "adding-serial-primary-key-field": "create a unique index concurrently, then ADD PRIMARY KEY USING INDEX",
    "adding-field-with-default": "add the column without a default, and fill it in batches",
    "adding-required-field": "add a server_default, or make the column nullable",
    "disallowed-unique-constraint": "create a unique index concurrently, then ADD UNIQUE USING INDEX",
    "adding-foreign-key-constraint": _NOT_VALID,
    "constraint-missing-not-valid": _NOT_VALID,
    "ban-": "do it when no release that may run needs it, and give the reason in `allowed`",
}
_NAME = r'(?:"?\w+"?\.)?"?(\w+)"?'
_CREATED = re.compile(rf"CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?{_NAME}", re.IGNORECASE)
_INDEX = re.compile(
    rf"(CREATE (?:UNIQUE )?|DROP )INDEX CONCURRENTLY (IF (?:NOT )?EXISTS )?{_NAME}", re.IGNORECASE
)
_CHANGED_ROWS = re.compile(
    rf"(?:WITH .*\b)?(?:UPDATE(?! SET)|DELETE FROM|TRUNCATE(?: TABLE)?|MERGE INTO) (?:ONLY )?{_NAME}",
    re.IGNORECASE,
)
_CHECKED_COLUMN = re.compile(rf"ALTER TABLE (?:ONLY )?{_NAME} ADD COLUMN .*\bCHECK ?\(", re.IGNORECASE)
_DO = re.compile(r"DO\b", re.IGNORECASE)
_DEFINITION = re.compile(r"\b(?:EXECUTE|ALTER|CREATE|DROP|GRANT|REVOKE|TRUNCATE)\b", re.IGNORECASE)
_COMMIT = re.compile(r"\bCOMMIT\b", re.IGNORECASE)


def own_rules(rendered: Rendered) -> Iterator[Problem]:
    """Yield what Squawk does not look for."""
    created = {match[1] for _, sql in rendered.statements if (match := _CREATED.match(sql))}
    dropped: set[str] = set()
    for line, sql in rendered.statements:
        if (match := _CHANGED_ROWS.match(sql)) and match[1] not in created:
            text = f"rows of {match[1]} stay locked until the migration commits; change them in batches, "
            text += "each with a COMMIT, or say in `allowed` why they are few"
            yield Problem(line, "changing-rows", text)
        elif (match := _CHECKED_COLUMN.match(sql)) and match[1] not in created:
            text = f"the table is locked while all rows are read; {ADVICE['constraint-missing-not-valid']}"
            yield Problem(line, "constraint-missing-not-valid", text)
        elif match := _INDEX.match(sql):
            if match[1].upper() == "DROP ":
                dropped |= {match[3]} if match[2] else set()
            elif match[3] not in dropped:
                text = (
                    f"an invalid index {match[3]} remains if this fails; first drop it, with if_exists=True"
                )
                yield Problem(line, "index-without-drop", text)
        elif _DO.match(sql):
            yield from _block_rules(line, sql)
    if "squawk-ignore" in rendered.sql:
        yield Problem(1, "squawk-ignore", "is not used here; give the rule and the reason in `allowed`")


def _block_rules(line: int, block: str) -> Iterator[Problem]:
    if "$" not in block or _DEFINITION.search(block):
        yield Problem(
            line, "do-block", "a DO block hides statements from this check; write them outside of it"
        )
    elif not _COMMIT.search(block):
        yield Problem(line, "do-block", f"a DO block must COMMIT after each batch of rows, in {_OUTSIDE}")


def squawk(migrations: list[Rendered]) -> None:
    """Add what Squawk finds to the problems of the migrations."""
    with tempfile.TemporaryDirectory() as name:
        files = {str(Path(name, f"{number}.sql")): found for number, found in enumerate(migrations)}
        for file, found in files.items():
            Path(file).write_text(found.sql)
        done = subprocess.run(
            [
                Path(sys.executable).with_name("squawk"),
                "--reporter=json",
                f"--include={','.join(ALSO)}",
                f"--exclude={','.join(NOT)}",
                *files,
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=name,  # where no configuration is
        )
    if done.returncode not in {0, 1} or not done.stdout:
        sys.exit(f"check_migrations: squawk failed: {done.stderr.strip()}")
    for entry in json.loads(done.stdout):
        rendered = files[entry["file"]]
        if entry["rule_name"] != "ban-drop-index" or not _created_again(rendered, entry["line"]):
            problem = Problem(rendered.line(entry["line"]), entry["rule_name"], _advise(entry))
            rendered.problems.append(problem)


def _created_again(rendered: Rendered, number: int) -> bool:
    """Return whether an index that is dropped is made by the same migration."""
    found = [match for _, sql in rendered.statements if (match := _INDEX.match(sql))]
    created = {match[3] for match in found if match[1].upper() != "DROP "}
    dropped = _INDEX.match(rendered.sql.splitlines()[number])
    return dropped is not None and dropped[3] in created


def _advise(entry: dict[str, Any]) -> str:
    rule = entry["rule_name"]
    advice = next((text for start, text in ADVICE.items() if rule.startswith(start)), entry["help"] or "")
    message = entry["message"].rstrip(".")
    return f"{message[:1].lower()}{message[1:]}" + (f"; {advice.rstrip('.')}" if advice else "")
