"""Reading PromQL in tests: selectors with what they stand in, and the labels that they have."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

import promql_parser

from bentos.health.values import Family
from monitoring.catalogue import CLUSTER_LABELS, TARGET_LABELS, family_of
from monitoring.prometheus.source import RULE_FILES
from monitoring.prometheus.source.rule import Recording

RECORDED: Mapping[str, Recording] = {
    recording.record: recording
    for file in RULE_FILES
    for group in file.groups
    for recording in group.recordings
}
_OF_TARGETS = frozenset((*TARGET_LABELS, *CLUSTER_LABELS))

# Stands for $__rate_interval, so that it differs from a range written by hand.
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
_FILTERS = frozenset(("and", "unless", "==", "!=", ">", "<", ">=", "<="))
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::\w+)?\}|(\w+))")


@dataclass(frozen=True)
class Matcher:
    """A label matcher; `operator` as PromQL writes it."""

    label: str
    operator: str
    value: str


@dataclass(frozen=True)
class Selector:
    """A vector selector, the range it has and the nodes around it, the innermost last.

    `filters` is set where it decides which series remain and gives them no labels: to the right of
    a comparison, an `and` or an `unless`.
    """

    name: str
    matchers: tuple[Matcher, ...]
    range: timedelta | None
    around: tuple[promql_parser.Expr, ...]
    filters: bool

    @property
    def function(self) -> str:
        """The function that is called on it directly, empty where there is none."""
        inner = self.around[-1] if self.around else None
        return inner.func.name if isinstance(inner, promql_parser.Call) else ""

    @property
    def metrics(self) -> list[str]:
        """The metrics that it may select: its name, or those that `__name__` is compared with."""
        if self.name:
            return [self.name]
        patterns = (each.value for each in self.matchers if each.label == "__name__")
        return [name for pattern in patterns for name in pattern.split("|")]

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
    node: promql_parser.Expr, around: tuple[promql_parser.Expr, ...], filters: bool = False
) -> Iterator[Selector]:
    if isinstance(node, promql_parser.VectorSelector):
        yield _selector(node, None, around, filters)
    elif isinstance(node, promql_parser.MatrixSelector):
        yield _selector(node.vector_selector, node.range, around, filters)
    elif isinstance(node, promql_parser.BinaryExpr) and str(node.op) in _FILTERS:
        yield from _selectors(node.lhs, (*around, node), filters)
        yield from _selectors(node.rhs, (node,), True)
    else:
        for child in _children(node):
            yield from _selectors(child, (*around, node), filters)


def _selector(
    node: promql_parser.VectorSelector,
    over: timedelta | None,
    around: tuple[promql_parser.Expr, ...],
    filters: bool,
) -> Selector:
    matchers = tuple(
        Matcher(matcher.name, _OPERATORS[str(matcher.op)], matcher.value)
        for matcher in node.matchers.matchers
    )
    return Selector(node.name or "", matchers, over, around, filters)


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


def family(metric: str) -> Family | None:
    """Return the family of a metric or of a histogram's series, None for an unknown one."""
    try:
        return family_of(metric)
    except KeyError:
        return None


def labels_of(metric: str) -> frozenset[str] | None:
    """Return the labels that series of a metric may have; None for an unknown metric."""
    if metric in RECORDED:
        recording = RECORDED[metric]
        return frozenset(recording.labels) | labels_after(recording.expr)
    known = family(metric)
    if known is None:
        return None
    bucket = ("le",) if metric.endswith("_bucket") else ()
    return frozenset((*known.labels, *bucket)) | _OF_TARGETS


def labels_after(expression: str) -> frozenset[str]:
    """Return the labels that may be left of an expression's series."""
    left: frozenset[str] = frozenset()
    for selector in selectors(expression):
        for metric in selector.metrics if not selector.filters else ():
            labels = labels_of(metric) or frozenset()
            left |= (labels & selector.grouping) if selector.grouping else labels
    for node in nodes(parse(expression)):
        if isinstance(node, promql_parser.Call) and node.func.name == "label_replace":
            left |= {node.args[1].val}
    return left


def unknown_names(expression: str) -> list[str]:
    """Return what an expression names that does not exist: metrics, labels, bounds of buckets."""
    wrong = []
    for selector in selectors(expression):
        if not selector.metrics:
            wrong.append("a selector without a metric")
        for metric in selector.metrics:
            labels = labels_of(metric)
            if labels is None:
                wrong.append(f"metric {metric}")
                continue
            used = {matcher.label for matcher in selector.matchers} - {"__name__"}
            used |= selector.grouping
            wrong += [f"{metric} has no label {label}" for label in sorted(used - labels)]
            known = family(metric)
            wrong += [
                f"{metric} has no bucket {matcher.value}"
                for matcher in selector.matchers
                if matcher.label == "le"
                and known
                and known.buckets
                and float(matcher.value) not in known.buckets
            ]
    return wrong
