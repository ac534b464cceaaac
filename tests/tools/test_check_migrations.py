"""The check of migrations: what breaks the running version is refused, and the safe form passes."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tools.check_migrations.__main__ import MIGRATIONS, ROOT, check
from tools.check_migrations.rules import ADVICE

HEADER = '''"""Change it."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
'''
FIRST_LINE = HEADER.count("\n") + 1
OUTSIDE = "with op.get_context().autocommit_block():\n    "


def sql(text: str) -> str:
    return f'op.execute("""{text}""")'


# By the name of a branch: the rule, and the body of a migration that breaks it.
REFUSED = {
    "drop_table": ("ban-drop-table", 'op.drop_table("old", schema="s")'),
    "drop_column": ("ban-drop-column", 'op.drop_column("t", "c", schema="s")'),
    "drop_schema": ("ban-drop-schema", sql("DROP SCHEMA s CASCADE")),
    "drop_view": ("ban-drop-view", sql("DROP VIEW s.v")),
    "drop_sequence": ("ban-drop-sequence", sql("DROP SEQUENCE s.q")),
    "drop_type": ("ban-drop-type", sql("DROP TYPE s.e")),
    "drop_function": ("ban-drop-function", sql("DROP FUNCTION s.f()")),
    "drop_trigger": ("ban-drop-trigger", sql("DROP TRIGGER tr ON s.t")),
    "disable_trigger": ("ban-disable-trigger", sql("ALTER TABLE s.t DISABLE TRIGGER tr")),
    "drop_constraint": ("ban-drop-constraint", 'op.drop_constraint("uq", "t", schema="s")'),
    "drop_default": ("ban-drop-default", 'op.alter_column("t", "c", server_default=None, schema="s")'),
    "drop_not_null": ("ban-drop-not-null", 'op.alter_column("t", "c", nullable=True, schema="s")'),
    "drop_index": ("require-concurrent-index-deletion", 'op.drop_index("i", "t", schema="s")'),
    "drop_index_for_good": ("ban-drop-index", OUTSIDE + sql("DROP INDEX CONCURRENTLY IF EXISTS s.i")),
    "rename_table": ("renaming-table", 'op.rename_table("t", "u", schema="s")'),
    "rename_column": ("renaming-column", 'op.alter_column("t", "c", new_column_name="d", schema="s")'),
    "rename_constraint": ("renaming-object", sql("ALTER TABLE s.t RENAME CONSTRAINT uq TO uk")),
    "rename_index": ("renaming-object", sql("ALTER INDEX s.i RENAME TO j")),
    "move_table": ("ban-set-schema", sql("ALTER TABLE s.t SET SCHEMA u")),
    "narrow": ("changing-column-type", 'op.alter_column("t", "c", type_=sa.String(10), schema="s")'),
    "rewrite": ("changing-column-type", 'op.alter_column("t", "c", type_=sa.BigInteger, schema="s")'),
    "required": ("adding-required-field", 'op.add_column("t", sa.Column("c", sa.Text, nullable=False))'),
    "volatile": (
        "adding-field-with-default",
        'op.add_column("t", sa.Column("c", sa.Uuid, server_default=sa.func.gen_random_uuid()))',
    ),
    "not_null": ("adding-not-nullable-field", 'op.alter_column("t", "c", nullable=False, schema="s")'),
    "check": ("constraint-missing-not-valid", 'op.create_check_constraint("ck", "t", "c > 0", schema="s")'),
    "check_of_new_column": (
        "constraint-missing-not-valid",
        'op.add_column("t", sa.Column("c", sa.Integer, sa.CheckConstraint("c > 0")))',
    ),
    "not_valid_and_validated": (
        "constraint-missing-not-valid",
        sql(
            "ALTER TABLE s.t ADD CONSTRAINT k CHECK (c > 0) NOT VALID; ALTER TABLE s.t VALIDATE CONSTRAINT k"
        ),
    ),
    "foreign_key": ("adding-foreign-key-constraint", 'op.create_foreign_key("fk", "t", "u", ["c"], ["d"])'),
    "unique": ("disallowed-unique-constraint", 'op.create_unique_constraint("uq", "t", ["c"], schema="s")'),
    "primary_key": ("adding-serial-primary-key-field", 'op.create_primary_key("pk", "t", ["c"], schema="s")'),
    "index": ("require-concurrent-index-creation", 'op.create_index("i", "t", ["c"], schema="s")'),
    "unique_index": (
        "require-concurrent-index-creation",
        'op.create_index("i", "t", ["c"], unique=True, schema="s")',
    ),
    "index_in_transaction": (
        "ban-concurrent-index-creation-in-transaction",
        'op.create_index("i", "t", ["c"], postgresql_concurrently=True, schema="s")',
    ),
    "index_that_cannot_be_repeated": (
        "index-without-drop",
        OUTSIDE + 'op.create_index("i", "t", ["c"], postgresql_concurrently=True, if_not_exists=True)',
    ),
    "reindex": ("require-concurrent-reindex", sql("REINDEX TABLE s.t")),
    "update": ("changing-rows", sql("UPDATE s.t SET c = d")),
    "update_quoted": ("changing-rows", sql('-- all\nupdate "s"."t" set c = d where c is null')),
    "update_in_cte": ("changing-rows", sql("WITH x AS (SELECT 1) UPDATE s.t SET c = d")),
    "update_second": ("changing-rows", sql("SELECT ';'; UPDATE s.t SET c = d")),
    "delete": ("changing-rows", sql("DELETE FROM s.t")),
    "truncate": ("changing-rows", sql("TRUNCATE s.t")),
    "block_with_ddl": ("do-block", sql("DO $$ BEGIN EXECUTE 'DROP TABLE s.t'; END $$")),
    "block_of_all_rows": ("do-block", sql("DO $x$ BEGIN UPDATE s.t SET c = d; END $x$")),
    "block_in_quotes": ("do-block", sql("DO 'BEGIN DROP TABLE s.t; END'")),
    "revoke": (
        "ban-revoke",
        "op.execute(f\"REVOKE SELECT ON s.t FROM {op.get_context().opts['login_role']}\")",
    ),
    "drop_role": ("ban-revoke", sql("DROP ROLE r")),
    "row_security": ("ban-alter-row-level-security", sql("ALTER TABLE s.t ENABLE ROW LEVEL SECURITY")),
    "enum_renamed": ("renaming-object", sql("ALTER TYPE s.e RENAME VALUE 'a' TO 'b'")),
    "enum_added": ("ban-add-enum-value", sql("ALTER TYPE s.e ADD VALUE 'c'")),
    "replace_view": ("ban-replace-view-function", sql("CREATE OR REPLACE VIEW s.v AS SELECT 1")),
    "wrong_sql": ("syntax-error", sql("ALTER TABEL s.t ADD COLUMN c text")),
    "comment_of_squawk": ("squawk-ignore", sql("-- squawk-ignore ban-drop-table\nDROP TABLE s.t")),
    "reads_the_database": ("offline", 'op.get_bind().execute(sa.text("SELECT 1")).scalar_one()'),
    "inspects_the_database": ("offline", "sa.inspect(op.get_bind())"),
    "value_without_type": ("offline", 'op.bulk_insert(sa.table("t", sa.column("c")), [{"c": 1}])'),
}
SAFE = {
    "new_table": """\
op.create_table("n", sa.Column("c", sa.Integer, primary_key=True), sa.Column("d", sa.Text), schema="s")
op.create_index("i", "n", ["d"], unique=True, schema="s")
op.create_check_constraint("ck", "n", "c > 0", schema="s")
op.execute("INSERT INTO s.n SELECT c FROM s.t")
op.execute("UPDATE s.n SET d = '50%; DELETE FROM s.t'")
op.execute(f"GRANT SELECT ON s.n TO {op.get_context().opts['login_role']}")
""",
    "new_nullable_column": 'op.add_column("t", sa.Column("c", sa.Text), schema="s")',
    "new_column_with_default": (
        'op.add_column("t", sa.Column("c", sa.Text, nullable=False, server_default=""), schema="s")'
    ),
    "check_not_valid": (
        'op.create_check_constraint("ck", "t", "c IS NOT NULL", schema="s", postgresql_not_valid=True)'
    ),
    "set_not_null_of_validated": sql(
        "ALTER TABLE s.t VALIDATE CONSTRAINT ck; ALTER TABLE s.t ALTER COLUMN c SET NOT NULL"
    ),
    "foreign_key_not_valid": (
        'op.create_foreign_key("fk", "t", "u", ["c"], ["d"], postgresql_not_valid=True, source_schema="s")'
    ),
    "concurrent_index": OUTSIDE
    + """op.drop_index("i", "t", schema="s", if_exists=True, postgresql_concurrently=True)
    op.create_index("i", "t", ["c"], unique=True, schema="s", postgresql_concurrently=True)""",
    "unique_using_index": sql("ALTER TABLE s.t ADD CONSTRAINT uq UNIQUE USING INDEX i"),
    "rows_in_batches": OUTSIDE
    + """op.execute('''
        DO $$ BEGIN LOOP
          UPDATE s.t SET d = c WHERE id IN (SELECT id FROM s.t WHERE d IS NULL LIMIT 1000);
          EXIT WHEN NOT FOUND;
          COMMIT; -- don't lock more
        END LOOP; END $$
    ''')""",
    "function_and_trigger": sql(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM t; RETURN new; END $$;"
        " CREATE TRIGGER tr BEFORE INSERT ON s.t FOR EACH ROW EXECUTE FUNCTION f()"
    ),
    "upsert": sql("INSERT INTO s.t VALUES (1) ON CONFLICT (id) DO UPDATE SET c = 1"),
}


def write(folder: Path, name: str, body: str, *, top: str = "") -> None:
    script = folder / name / "0001.py"
    script.parent.mkdir(parents=True)
    script.write_text(HEADER.replace("\n\ndef", f"{top}\n\ndef") + textwrap.indent(body, "    ") + "\n")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[int, str, str]]]:
    """Line, rule and text of all problems, by the name of the branch: all are checked at once."""
    folder = tmp_path_factory.mktemp("migrations")
    for name, (_, body) in REFUSED.items():
        write(folder, name, body)
    for name, body in SAFE.items():
        write(folder, f"safe_{name}", body)
    problems: dict[str, list[tuple[int, str, str]]] = {}
    for line in check(folder):
        parts = re.fullmatch(rf"{folder}/(\w+)/0001\.py:(\d+): ([a-z-]+): (.+)", line)
        assert parts, line
        problems.setdefault(parts[1], []).append((int(parts[2]), parts[3], parts[4]))
    return problems


@pytest.mark.parametrize("name", REFUSED)
def test_a_migration_that_breaks_the_running_version_is_refused(
    found: dict[str, list[tuple[int, str, str]]], name: str
) -> None:
    rule, body = REFUSED[name]
    lines = [line for line, broken, _ in found[name] if broken == rule]
    assert len(lines) == 1, found[name]
    if rule != "squawk-ignore":
        assert lines[0] == FIRST_LINE + body.startswith(OUTSIDE)


@pytest.mark.parametrize("name", SAFE)
def test_the_safe_form_passes(found: dict[str, list[tuple[int, str, str]]], name: str) -> None:
    assert found.get(f"safe_{name}") is None


def test_a_problem_says_what_to_do_instead(found: dict[str, list[tuple[int, str, str]]]) -> None:
    assert found["rename_column"] == [
        (
            FIRST_LINE,
            "renaming-column",
            f"renaming a column may break existing clients; {ADVICE['renaming-']}",
        )
    ]
    ((_, _, text),) = found["reads_the_database"]
    assert text.startswith(
        "the migration cannot be written as SQL (AttributeError: 'NoneType' object has no "
    )
    assert all(
        "; " in text for problems in found.values() for _, rule, text in problems if rule[:4] == "ban-"
    )


def test_a_migration_that_needs_the_database_passes_with_a_reason(tmp_path: Path) -> None:
    body = "sa.inspect(op.get_bind())"
    write(tmp_path, "s", body, top='\nallowed = {"offline": "asks for the version of PostgreSQL only"}\n')
    assert check(tmp_path) == []


@pytest.mark.parametrize(
    ("allowed", "problems"),
    [
        ('{"ban-drop-column": "no release since 1.4 uses it"}', []),
        ('{"ban-drop-column": " "}', ["1: allowed: ban-drop-column has no reason"]),
        ("{'ban-drop-column': 'unused', 'ban-drop-table': 'unused'}", ["1: allowed: nothing here breaks"]),
        ("'ban-drop-column'", ["1: allowed: must be a dict of reasons"]),
    ],
)
def test_a_rule_is_broken_with_a_reason_only(tmp_path: Path, allowed: str, problems: list[str]) -> None:
    write(tmp_path, "s", 'op.drop_column("t", "c", schema="s")', top=f"\nallowed = {allowed}\n")
    lines = check(tmp_path)
    assert len(lines) == len(problems)
    for line, problem in zip(lines, problems, strict=True):
        assert line.startswith(f"{tmp_path}/s/0001.py:{problem}")


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        ("def upgrade(:", "SyntaxError: invalid syntax"),
        ("", "has no attribute 'down_revision'"),
        ('revision = "0002"\ndown_revision = "0000"\n', "0000 referenced from 0000 -> 0002"),
        ('revision = "0002"\ndown_revision = None\n', "multiple heads"),
    ],
)
def test_a_script_that_cannot_be_loaded_is_one_line(tmp_path: Path, second: str, problem: str) -> None:
    write(tmp_path, "s", "pass")
    (tmp_path / "s" / "0002.py").write_text(second)
    (line,) = check(tmp_path)
    assert line.startswith(f"{tmp_path}/s: ")
    assert problem in line
    assert "\n" not in line


def test_the_command_checks_the_migrations_of_this_repository() -> None:
    assert check(MIGRATIONS) == []
    done = subprocess.run(
        [sys.executable, "-m", "tools.check_migrations"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
