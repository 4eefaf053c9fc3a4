"""Mutants of an alert: changes that its cases have to notice."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import promql_parser

from monitoring.prometheus.source.rule import Alert, duration, one_line, seconds
from tests.monitoring.promql import nodes

_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*")
    |(?P<range>\[[^\]]*\])
    |(?P<duration>\b\d+[smhdwy]\b)
    |(?P<word>[A-Za-z_:][\w:]*)
    |(?P<number>\d+(?:\.\d+)?)
    |(?P<operator>=~|!~|==|!=|>=|<=|[<>=])
    |(?P<brace>[{}])
    |(?P<other>.)""",
    re.VERBOSE,
)
_REVERSED = {"==": "!=", "!=": "==", ">": "<", "<": ">", ">=": "<", "<=": ">"}
_REVERSED_MATCHERS = {"=": "!=", "!=": "=", "=~": "!~", "!~": "=~"}
_SHIFTS = (0.8, 1.25)
_COUNTS = tuple("0123456789")


@dataclass(frozen=True)
class Mutant:
    """An alert changed in one place; `change` says where."""

    name: str
    change: str
    expr: str
    hold: str

    def document(self, original: Alert) -> dict[str, object]:
        """Return the mutant as a rule, without texts."""
        labels = original.static_labels
        return {"alert": self.name, "expr": self.expr, "for": self.hold, "labels": labels}


def mutants_of(alert: Alert) -> list[Mutant]:
    """Return every mutant of an alert, the unchanged alert first."""
    expr = one_line(alert.expr)
    changes = [("unchanged", expr, alert.hold), *_changes(expr, alert.hold)]
    return [
        Mutant(f"{alert.name}__{number}", change, changed, hold)
        for number, (change, changed, hold) in enumerate(changes)
    ]


def _changes(expr: str, hold: str) -> Iterator[tuple[str, str, str]]:
    for change, changed in (*_token_changes(expr), *_branch_changes(expr)):
        yield change, changed, hold
    for factor in (0.5, 1.5):
        other = duration(int(seconds(hold) * factor))
        yield f"for {hold} -> {other}", expr, other


def _token_changes(expr: str) -> Iterator[tuple[str, str]]:
    within_braces = False
    for token in _TOKEN.finditer(expr):
        text, kind = token.group(), token.lastgroup
        if kind == "brace":
            within_braces = text == "{"
        elif kind == "operator":
            other = _REVERSED_MATCHERS[text] if within_braces else _REVERSED[text]
            yield _replaced(expr, token, other)
        elif kind == "number":
            yield from (_replaced(expr, token, other) for other in _shifted(text))


def _shifted(number: str) -> tuple[str, ...]:
    """Return a threshold a fifth lower and a quarter higher; one that counts events, by one.

    Counts are small whole numbers without a point, and halves between them.
    """
    value = float(number)
    if number in _COUNTS or (value > 1 and number.endswith(".5")):
        return (f"{value - 1:g}", f"{value + 1:g}")
    return tuple(f"{value * factor:.9g}" for factor in _SHIFTS)


def _replaced(expr: str, token: re.Match[str], other: str) -> tuple[str, str]:
    before, after = expr[: token.start()], expr[token.end() :]
    near = f"{before[-30:]}[{token.group()} -> {other}]{after[:20]}"
    return near, f"{before}{other}{after}"


def _branch_changes(expr: str) -> Iterator[tuple[str, str]]:
    """Yield the expression without one side of each `and`, `or` and `unless`."""
    parsed = promql_parser.parse(expr)
    count = sum(isinstance(node, promql_parser.BinaryExpr) for node in nodes(parsed))
    for index in range(count):
        for side in ("lhs", "rhs"):
            changed = _without(parsed, index, side)
            if changed is not None:
                yield f"only the {side} of binary operator {index}", str(changed)


def _without(expr: promql_parser.Expr, index: int, kept: str) -> promql_parser.Expr | None:
    position = -1
    replaced = False

    def visit(node: promql_parser.Expr) -> promql_parser.Expr | None:
        nonlocal position, replaced
        if not isinstance(node, promql_parser.BinaryExpr):
            return None
        position += 1
        operator = str(node.op)
        # What is subtracted from a set makes no alert of its own.
        alone = operator == "or" or (operator in ("and", "unless") and kept == "lhs")
        if position != index or replaced or not alone:
            return None
        replaced = True
        return getattr(node, kept)  # type: ignore[no-any-return]

    changed = promql_parser.transform(expr, visit)
    return changed if replaced else None
