"""Print the mutants of source files as JSON lines: `mutations.py FILE...`; runs in .venv/mutants.

The operators are those of Cosmic Ray that change what a program does without being noise, and one of our own,
which removes statements: Cosmic Ray has none, and a check that is removed is what matters most here.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator

_COMPARISONS = ["Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is", "Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt"]
_COMPARISONS += ["Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt"]
_ARITHMETIC = ["Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "Mod_Mul", "FloorDiv_Mul", "Pow_Mul"]
_ARITHMETIC += ["BitOr_BitAnd", "BitAnd_BitOr"]
OPERATORS = [
    "AddNot",
    "NumberReplacer",
    "RemoveDecorator",
    "ReplaceAndWithOr",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "ReplaceFalseWithTrue",
    "ReplaceOrWithAnd",
    "ReplaceTrueWithFalse",
    "ReplaceUnaryOperator_Delete_Not",
    "ReplaceUnaryOperator_USub_UAdd",
    "ZeroIterationForLoop",
    *(f"ReplaceComparisonOperator_{pair}" for pair in _COMPARISONS),
    *(f"ReplaceBinaryOperator_{pair}" for pair in _ARITHMETIC),
]


class RemoveStatement(Operator):  # type: ignore[misc] # Cosmic Ray is not installed where mypy runs
    """Replace a call whose result is unused, a `raise` or an assignment to an attribute by `pass`."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """See Operator."""
        if node.type == "simple_stmt" and _is_removable(node.children[0]):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node: Any, _: int) -> Any:
        """See Operator."""
        old = node.children[0]
        new = parso.parse("pass").children[0]
        new.prefix, new.parent = old.get_first_leaf().prefix, node
        node.children[0] = new
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        """See Operator."""
        return ()


def _is_removable(statement: Any) -> bool:
    kind = statement.type
    if kind == "expr_stmt":
        return bool(
            statement.children[0].type in {"atom_expr", "power"} and statement.children[1].type != "annassign"
        )
    return kind in {"raise_stmt", "atom_expr", "power", "await_expr"}


def _annotations(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return where annotations are: changing one changes nothing."""
    found: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(node.returns)
        elif isinstance(node, ast.arg | ast.AnnAssign):
            found.append(node.annotation)
    return [
        ((one.lineno, one.col_offset), (one.end_lineno or 0, one.end_col_offset or 0)) for one in found if one
    ]


def _positions(source: str, operator: Operator) -> Iterable[tuple[int, tuple[int, int]]]:
    """Yield the number and the start of each occurrence that is not in an annotation."""
    annotations = _annotations(source)
    occurrence = 0
    for node in ast_nodes(get_ast(source)):
        for start, end in operator.mutation_positions(node):
            is_separator = node.type == "operator" and node.parent.type in {"parameters", "param"}
            if not is_separator and not any(first <= start and end <= last for first, last in annotations):
                yield occurrence, start
            occurrence += 1


def mutants(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the mutants of a file that can be compiled: source, line, and the lines that differ."""
    source = path.read_text()
    operators = [("RemoveStatement", RemoveStatement())]
    operators += [(name, get_operator(f"core/{name}")()) for name in OPERATORS]
    seen = {source}
    for name, operator in operators:
        for occurrence, start in _positions(source, operator):
            mutant = mutate_code(source, operator, occurrence)
            if mutant is None or mutant in seen:
                continue
            seen.add(mutant)
            try:
                compile(mutant, str(path), "exec")
            except SyntaxError:
                continue
            old, new = _changed(source.splitlines(), mutant.splitlines())
            yield {"operator": name, "line": start[0], "original": old, "mutant": new, "source": mutant}


def _changed(old: list[str], new: list[str]) -> tuple[str, str]:
    """Return the lines that differ, without indentation."""
    first = next(i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1])
    last = next(i for i, pair in enumerate(zip(old[::-1], new[::-1], strict=False)) if pair[0] != pair[1])
    parts = (lines[first : max(len(lines) - last, first + 1)] for lines in (old, new))
    before, after = (" ".join(line.strip() for line in part) for part in parts)
    return before, after


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        for one in mutants(Path(argument)):
            print(json.dumps({"path": argument, **one}))
