"""Chooses by held-out pictures how sure a model has to be before a part passes without a person.

Run `python -m examples.thresholds --data FOLDER`; `--help` lists the options.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from bentos.inference.model.registry import Registry
from bentos.inference.model.warm_up import LoadedModel
from examples.command import UsageError, add_model_options, ask, load_version, run, say
from examples.dataset import ImageDataset, read_folder, split
from examples.escapes import Cost, Judged, highest_rate, pictures_needed

TAG: Final = "thresholds"
_SHOWN: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)


def main(arguments: Sequence[str] | None = None) -> int:
    """Choose thresholds as the command line asks and return the exit status."""
    return run(_choose, _parser(), arguments)


def _choose(options: argparse.Namespace) -> None:
    registry, model = load_version(options, options.alias)
    version = model.identity.version
    if all(model.spec.defects):
        raise UsageError("every class of the model is a defect: no part can pass")
    images = _held_out(registry, version, model, options)
    judged = _judged(model, images)
    if not judged.defects:
        raise UsageError("no picture shows a defect: how many escape cannot be told")
    say(
        f"{options.model} version {version}: {len(images)} "
        f"{'' if options.all else 'held-out '}pictures, {judged.defects} of them defects"
    )
    chosen = judged.choose(options.max_escape)
    _print_costs(judged, chosen)
    bound = highest_rate(chosen.escapes, judged.defects)
    if bound > options.max_escape:
        say(
            f"note: so few defects do not show that at most {options.max_escape:.2%} escape, only "
            f"that at most {bound:.2%} do; to show it takes "
            f"{pictures_needed(options.max_escape)} defects without an escape"
        )
    thresholds = {
        name: chosen.threshold
        for name, defect in zip(model.spec.class_names, model.spec.defects, strict=True)
        if not defect
    }
    _draw(judged, chosen, options.plot)
    say(f"drawn: {options.plot}")
    content = json.dumps(thresholds)
    if options.set:
        _set_tag(registry, version, options.model, thresholds)
        say(f"set as the tag {TAG} of version {version}: {content}")
    else:
        say(f"THRESHOLDS='{content}' sets them, or --set as the version's tag")


def _held_out(
    registry: Registry, version: str, model: LoadedModel, options: argparse.Namespace
) -> ImageDataset:
    """Return the pictures of the folder that the model was not trained on.

    Raises UsageError where it cannot be told which these are.
    """
    picture = model.spec.picture
    if picture is None:
        raise UsageError("the model sees no pictures")
    client = registry.connect()
    run_id = client.get_model_version(options.model, version).run_id
    params = client.get_run(run_id).data.params if run_id else {}
    folder = options.data or params.get("data")
    if folder is None:
        raise UsageError("the version's run does not name a folder of pictures: add --data FOLDER")
    dataset = read_folder(Path(folder), (picture.height, picture.width), picture.bit_depth)
    if unknown := sorted(set(dataset.class_names) - set(model.spec.class_names)):
        raise UsageError(
            f"the folder has classes that the model has not: {', '.join(unknown)}; its classes "
            f"are {', '.join(model.spec.class_names)}"
        )
    if options.all:
        return dataset
    counts = [params.get(name, "") for name in ("seed", "training_images", "held_out_images")]
    if not all(count.isdigit() for count in counts):
        raise UsageError(
            "the version's run does not say which pictures were held out; where the model was "
            "trained on none of this folder, add --all"
        )
    seed, trained, held_out = map(int, counts)
    parts = split(dataset, seed=seed)
    if (len(parts.train), len(parts.held_out)) != (trained, held_out):
        raise UsageError(
            f"the model was trained on a folder of {trained + held_out} pictures, and this one has "
            f"{len(dataset)}; give that one, or --all where the model was trained on none of these"
        )
    return parts.held_out


def _judged(model: LoadedModel, images: ImageDataset) -> Judged:
    """Return what the model makes of the pictures."""
    probabilities = ask(model, [path.read_bytes() for path in images.paths])
    defects = dict(zip(model.spec.class_names, model.spec.defects, strict=True))
    labels = [defects[images.class_names[label]] for label in images.labels.tolist()]
    return Judged.of(probabilities, np.asarray(labels), model.spec)


def _print_costs(judged: Judged, chosen: Cost) -> None:
    """Print a row for each threshold: defects that escape, and what is left to a person."""
    say("\nthreshold       escape  at most *  good parts reviewed  defects reviewed\n")
    for threshold in sorted({*_SHOWN, chosen.threshold}):
        cost = judged.cost(threshold)
        say(
            f"{threshold:<9g}"
            f"{_share(cost.escapes, judged.defects):>13}"
            f"{highest_rate(cost.escapes, judged.defects):>11.2%}"
            f"{_share(cost.reviewed_good, judged.good):>21}"
            f"{_share(cost.reviewed_defects, judged.defects):>18}"
            f"{'  <- chosen' if threshold == chosen.threshold else ''}"
        )
    say(f"\n* with 95% confidence; of {judged.defects} defects and {judged.good} good parts\n")


def _share(count: int, number: int) -> str:
    return f"{count} ({count / max(1, number):.1%})"


def _draw(judged: Judged, chosen: Cost, path: Path) -> None:
    """Draw what each threshold costs to a PNG file."""
    from matplotlib.figure import Figure

    # Most confidences lie close to 1, so the axis is that of the doubt.
    doubts = np.geomspace(0.5, 1e-4, 400)
    costs = [judged.cost(float(1 - doubt)) for doubt in doubts]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for label, values, style in (
        ("defects that escape", [one.escapes / judged.defects for one in costs], "r-"),
        (
            "the same, at most (95%)",
            [highest_rate(one.escapes, judged.defects) for one in costs],
            "r:",
        ),
        (
            "good parts to review",
            [one.reviewed_good / max(1, judged.good) for one in costs],
            "b-",
        ),
        (
            "defects to review",
            [one.reviewed_defects / judged.defects for one in costs],
            "b:",
        ),
    ):
        axes.plot(doubts, [100 * value for value in values], style, label=label)
    axes.axvline(max(1e-4, 1 - chosen.threshold), color="black", linewidth=0.8)
    axes.set(
        xscale="log",
        xlim=(0.5, 1e-4),
        xlabel="threshold of the good classes",
        ylabel="% of the defects, or of the good parts",
        title=f"chosen: {chosen.threshold:g}",
    )
    ticks = (0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 0.9999)
    axes.set_xticks([1 - tick for tick in ticks], [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=120)


def _set_tag(registry: Registry, version: str, name: str, thresholds: dict[str, float]) -> None:
    """Write thresholds beside those of other classes that the version's tag has.

    Raises UsageError where the model's own would go before them.
    """
    import mlflow

    registry.connect()
    if TAG in (mlflow.models.get_model_info(f"models:/{name}/{version}").metadata or {}):
        raise UsageError(
            f"the model's metadata have {TAG} of their own, which go before a tag; set THRESHOLDS"
        )
    known = json.loads(registry.tags(version).get(TAG, "{}"))
    content = json.dumps({**known, **thresholds})
    registry.connect().set_model_version_tag(name, version, TAG, content)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.thresholds",
        description="Choose the confidence from which a part passes, by pictures that the model "
        "was not trained on: the lowest one at which few enough defects escape.",
    )
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="pictures, a folder per class (the folder that the model was trained on)",
    )
    add_model_options(parser, alias="alias, or number, of its version")
    add(
        "--max-escape",
        type=_rate,
        default=0.01,
        metavar="SHARE",
        help="share of the defects that may pass, 0 to 1 (0.01)",
    )
    add("--all", action="store_true", help="take every picture: none of them was trained on")
    add(
        "--plot",
        type=Path,
        default=Path(".data/thresholds.png"),
        metavar="FILE",
        help="where the picture goes (.data/thresholds.png)",
    )
    add("--set", action="store_true", help=f"write them as the version's tag {TAG}")
    return parser


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 to below 1")
    return rate


if __name__ == "__main__":
    sys.exit(main())
