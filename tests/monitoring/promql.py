"""Reading PromQL in tests: variables filled in, selectors with what they stand in."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import promql_parser

# Stands for $__rate_interval, so that a range written by hand is told apart from it.
RATE_INTERVAL = timedelta(seconds=11_277_964)
_BUILT_IN = {
    "__rate_interval": f"{int(RATE_INTERVAL.total_seconds())}s",
    "__range": "1h",
    "__interval": "15s",
}
_OPERATORS = {
    "MatchOp.Equal": "=",
    "MatchOp.NotEqual": "!=",
    "MatchOp.Re": "=~",
    "MatchOp.NotRe": "!~",
}
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::\w+)?\}|(\w+))")


@dataclass(frozen=True)
class Matcher:
    """A label matcher; `operator` as PromQL writes it."""

    label: str
    operator: str
    value: str


@dataclass(frozen=True)
class Selector:
    """A vector selector, the range it has and the nodes around it, the innermost last."""

    name: str
    matchers: tuple[Matcher, ...]
    range: timedelta | None
    around: tuple[promql_parser.Expr, ...]

    @property
    def function(self) -> str:
        """The function that is called on it directly, empty where there is none."""
        inner = self.around[-1] if self.around else None
        return inner.func.name if isinstance(inner, promql_parser.Call) else ""

    @property
    def grouping(self) -> frozenset[str]:
        """The labels by which the innermost aggregation around it groups."""
        for node in reversed(self.around):
            if isinstance(node, promql_parser.AggregateExpr):
                modifier = node.modifier
                return frozenset(modifier.labels) if modifier else frozenset()
        return frozenset()


def fill_in_built_in(expression: str) -> str:
    """Return the expression with Grafana's own variables filled in, the dashboard's left."""

    def value(found: re.Match[str]) -> str:
        return _BUILT_IN.get(found[1] or found[2], found[0])

    return _VARIABLE.sub(value, expression)


def variables(text: str) -> set[str]:
    """Return the names of the variables that a text uses, Grafana's own left out."""
    names = {found[1] or found[2] for found in _VARIABLE.finditer(text)}
    return {name for name in names if not name.startswith("__")}


def parse(expression: str) -> promql_parser.Expr:
    """Return the parsed expression; ValueError where it is no PromQL."""
    return promql_parser.parse(fill_in_built_in(expression))


def selectors(expression: str) -> list[Selector]:
    """Return every selector of an expression; ValueError where it is no PromQL."""
    return list(_selectors(parse(expression), ()))


def nodes(node: promql_parser.Expr) -> Iterator[promql_parser.Expr]:
    """Yield the node and all below it."""
    yield node
    for child in _children(node):
        yield from nodes(child)


def _selectors(
    node: promql_parser.Expr, around: tuple[promql_parser.Expr, ...]
) -> Iterator[Selector]:
    if isinstance(node, promql_parser.VectorSelector):
        yield _selector(node, None, around)
    elif isinstance(node, promql_parser.MatrixSelector):
        yield _selector(node.vector_selector, node.range, around)
    for child in _children(node):
        yield from _selectors(child, (*around, node))


def _selector(
    node: promql_parser.VectorSelector,
    over: timedelta | None,
    around: tuple[promql_parser.Expr, ...],
) -> Selector:
    matchers = tuple(
        Matcher(matcher.name, _OPERATORS[str(matcher.op)], matcher.value)
        for matcher in node.matchers.matchers
    )
    return Selector(node.name or "", matchers, over, around)


def _children(node: promql_parser.Expr) -> tuple[promql_parser.Expr, ...]:
    if isinstance(node, promql_parser.BinaryExpr):
        return (node.lhs, node.rhs)
    if isinstance(node, promql_parser.Call):
        return tuple(node.args)
    if isinstance(node, promql_parser.AggregateExpr):
        return (node.expr,) if node.param is None else (node.param, node.expr)
    if isinstance(
        node, promql_parser.ParenExpr | promql_parser.UnaryExpr | promql_parser.SubqueryExpr
    ):
        return (node.expr,)
    return ()
