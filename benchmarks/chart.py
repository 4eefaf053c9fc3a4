"""The results as one picture: rate by clients, rate side by side, probes under load."""

from pathlib import Path

from benchmarks.results import PeerResult, Results

_OURS = "tab:red"
_OTHERS = "tab:blue"


def draw(results: Results, path: Path) -> None:
    """Draw the chart to a PNG file."""
    from matplotlib.figure import Figure
    from PIL import Image

    peers = [peer for peer in results.peers if not peer.failure]
    many = str(results.plan.saturating_clients)
    figure = Figure(figsize=(13, 9), layout="constrained")
    (rates, curve), (probes, latency) = figure.subplots(2, 2)

    ordered = sorted(peers, key=lambda peer: peer.json[many].requests_per_second)
    bars = rates.barh(
        [peer.title for peer in ordered],
        [peer.json[many].requests_per_second for peer in ordered],
        color=[_colour(peer) for peer in ordered],
    )
    rates.bar_label(bars, fmt="{:,.0f}", padding=3)
    rates.set(title=f"/predict, JSON of 30 kB, {many} clients", xlabel="requests/s")
    rates.margins(x=0.15)

    for peer in peers:
        clients = [int(number) for number in peer.json]
        style = {"linewidth": 2.5} if _colour(peer) == _OURS else {"linewidth": 1.2}
        answered = [driven.requests_per_second for driven in peer.json.values()]
        curve.plot(clients, answered, marker="o", label=peer.title, **style)
        slowest = [driven.p99_ms for driven in peer.json.values()]
        latency.plot(clients, slowest, marker="o", label=peer.title, **style)
    for axes in (curve, latency):
        axes.set(xscale="log", yscale="log", xlabel="clients")
        axes.set_xticks([int(number) for number in peers[0].json] if peers else [])
        axes.set_xticklabels(list(peers[0].json) if peers else [])
        axes.grid(visible=True, which="both", alpha=0.3)
    curve.set(title="Rate as clients are added", ylabel="requests/s")
    latency.set(title="99th percentile of the response time", ylabel="milliseconds")
    # Below all of them: inside it would cover the curves.
    figure.legend(*curve.get_legend_handles_labels(), loc="outside lower center", ncols=5)

    probed = sorted(
        (peer for peer in peers if "saturated" in peer.probes),
        key=lambda peer: -peer.probes["saturated"].p99_ms,
    )
    for share, (name, alpha) in enumerate((("p50_ms", 1.0), ("p99_ms", 0.6), ("p999_ms", 0.35))):
        probes.barh(
            [position + 0.27 * (1 - share) for position in range(len(probed))],
            [getattr(peer.probes["saturated"], name) for peer in probed],
            height=0.25,
            color=[_colour(peer) for peer in probed],
            alpha=alpha,
            label=name.removesuffix("_ms").replace("p999", "p99.9"),
        )
    probes.set_yticks(range(len(probed)), [peer.title for peer in probed])
    probes.set(
        xscale="log", xlabel="milliseconds", title=f"Readiness probe while {many} clients predict"
    )
    probes.legend(fontsize="small")
    probes.grid(visible=True, axis="x", which="both", alpha=0.3)
    figure.savefig(path, dpi=110)
    # With a palette the file is a third of the size and looks the same.
    with Image.open(path) as drawn:
        palette = drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    palette.save(path, optimize=True)


def _colour(peer: PeerResult) -> str:
    return _OURS if peer.key.startswith("this-project") else _OTHERS
