"""The results as tables, for a terminal and for the documentation."""

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.generator import Driven
from benchmarks.probing import Probed
from benchmarks.reach import targets
from benchmarks.results import PeerResult, Results

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
_NONE = "-"
_CHART_SHOWS = "Rates side by side and by clients, probes under load, response times"

Column = tuple[str, Callable[[PeerResult], str]]


class MarkersMissing(Exception):  # noqa: N818 - told to the user
    """The page has no place for the tables."""


def tables(results: Results) -> str:
    """Return all tables as Markdown."""
    return "\n\n".join(
        [
            _context(results),
            "### `/predict` with JSON of 30 kB\n\n"
            "Requests a second, median of the rounds; in brackets 50th and 99th percentile of the "
            "response time in ms.\n\n" + _rates(results),
            "### Bytes instead of JSON, and the cost of a request\n\n" + _bodies(results),
            "### Probes, in milliseconds\n\n"
            "A probe of the readiness route every 20 ms, each over a new connection, from a "
            "process of its own; all rounds together. The bare socket is a process beside the "
            "saturated server that only answers probes: what its probes take is the machine's "
            "part.\n\n" + _probes(results),
            "### Start and memory\n\n"
            "From the start of the process to the first 200; memory of all processes after the "
            "load, shared pages shared out (PSS) and counted for each (RSS).\n\n" + _start(results),
            "### Reach\n\n" + _reach(results),
            _notes(results),
        ]
    ).strip()


def write_page(page: Path, results: Results, chart: Path) -> None:
    """Put chart and tables between the markers of a page; MarkersMissing where it has none."""
    text = page.read_text()
    if BEGIN not in text or END not in text:
        raise MarkersMissing(f"{page} has no {BEGIN} and {END}")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    picture = f"![{_CHART_SHOWS}]({chart.relative_to(page.parent)})"
    page.write_text(f"{head}{BEGIN}\n\n{picture}\n\n{tables(results)}\n\n{END}{tail}")


def _context(results: Results) -> str:
    machine, plan = results.machine, results.plan
    load = ", ".join(f"{value:.2f}" for value in results.load_before)
    after = ", ".join(f"{value:.2f}" for value in results.load_after)
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    rounds = "1 round" if plan.rounds == 1 else f"{plan.rounds} rounds"
    return (
        f"{results.started_at}, commit `{results.commit}`: {machine.processor}, {machine.cores} "
        f"cores, {machine.memory_gib:g} GiB, {machine.system}, Python {machine.python}. {rounds}, "
        f"{plan.rate:g} s a rate, {plan.loaded_probes:g} s of probes under load. Load average of "
        f"the machine before: {load}; after: {after}. {versions}."
    )


def _rates(results: Results) -> str:
    base = results.peer("this-project-1")
    many = str(results.plan.saturating_clients)
    columns: list[Column] = [
        (f"{number} clients" if number > 1 else "1 client", _rate_column(str(number)))
        for number in results.plan.clients
    ]

    def ratio(peer: PeerResult) -> str:
        if base is None or many not in base.json or many not in peer.json:
            return _NONE
        own = base.json[many].requests_per_second
        return f"{own / peer.json[many].requests_per_second:.2f}"

    columns.append((f"one worker of ours is faster by, {many} clients", ratio))
    return _markdown(results.peers, columns)


def _rate_column(number: str) -> Callable[[PeerResult], str]:
    def cell(peer: PeerResult) -> str:
        driven = peer.json.get(number)
        if driven is None:
            return _NONE
        times = f"{_ms(driven.p50_ms)} / {_ms(driven.p99_ms)}"
        return f"{driven.requests_per_second:,.0f} ({times})" + _errors(driven)

    return cell


def _bodies(results: Results) -> str:
    return _markdown(
        results.peers,
        [
            ("raw float32 req/s", lambda peer: _rate(peer.binary)),
            ("PNG images/s", lambda peer: _rate(peer.image)),
            ("CPU time of a JSON request", lambda peer: f"{peer.cpu_microseconds:,.0f} µs"),
        ],
    )


def _probes(results: Results) -> str:
    names = dict.fromkeys(name for peer in results.peers for name in peer.probes)
    rows = []
    for peer in results.peers:
        if peer.failure:
            rows.append(f"| {peer.title} | {peer.failure.splitlines()[0]} | | | | | | |")
            continue
        for name in names:
            found = peer.probes.get(name)
            if found is not None:
                rows.append(f"| {peer.title} | {name} | {_probe_cells(found)} |")
    head = "| server | meanwhile | probes | failed | p50 | p99 | p99.9 | max |"
    return "\n".join([head, "|---|---|--:|--:|--:|--:|--:|--:|", *rows])


def _probe_cells(found: Probed) -> str:
    times = (found.p50_ms, found.p99_ms, found.p999_ms, found.max_ms)
    return " | ".join([str(found.probes), str(found.failed), *map(_ms, times)])


def _start(results: Results) -> str:
    return _markdown(
        results.peers,
        [
            ("alive after", lambda peer: f"{peer.first_health_seconds:.1f} s"),
            ("ready after", lambda peer: f"{peer.first_ready_seconds:.1f} s"),
            ("PSS", lambda peer: f"{peer.pss / 2**20:,.0f} MiB"),
            ("RSS", lambda peer: f"{peer.rss / 2**20:,.0f} MiB"),
            ("processes", lambda peer: str(peer.processes)),
        ],
    )


def _reach(results: Results) -> str:
    rows = ["| one run, 16 clients | reach | found | |", "|---|--:|--:|---|"]
    for target in targets(results):
        sign = "at most" if target.most else "at least"
        value = "not measured" if target.value is None else f"{target.value:.2f}{target.unit}"
        mark = "reached" if target.reached else "**missed**"
        bound = f"{sign} {target.bound:g}{target.unit}"
        rows.append(f"| {target.what} | {bound} | {value} | {mark} |")
    return "\n".join(rows)


def _notes(results: Results) -> str:
    lines = [f"- {peer.title}: {note}." for peer in results.peers for note in peer.notes]
    return "\n".join(lines)


def _markdown(peers: Sequence[PeerResult], columns: Sequence[Column]) -> str:
    rows = [
        "| server | " + " | ".join(title for title, _ in columns) + " |",
        "|---|" + "--:|" * len(columns),
    ]
    for peer in peers:
        if peer.failure:
            cells = [peer.failure.splitlines()[0], *[""] * (len(columns) - 1)]
        else:
            cells = [cell(peer) for _, cell in columns]
        rows.append(f"| {peer.title} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _rate(driven: Driven | None) -> str:
    return _NONE if driven is None else f"{driven.requests_per_second:,.0f}" + _errors(driven)


def _errors(driven: Driven) -> str:
    return f", {driven.errors} failed" if driven.errors else ""


def _ms(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"
