"""Trains the demo model on a folder of labelled images and registers it with MLflow.

Run `python -m examples.train --data FOLDER`; `--help` lists the options.
"""

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from examples.command import UsageError, add_model_options, run, say
from examples.dataset import Split, read_folder, split
from examples.network import SurfaceNetwork
from examples.profile import profile_of
from examples.training import Evaluation, evaluate, fit

_NORMAL_CLASS_NAMES: Final = ("normal", "ok", "good", "no_defect", "none")


def choose_defect_classes(
    class_names: Sequence[str], *, normal: str | None = None, defects: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Return the classes that count as defects, in the order of `class_names`.

    These are `defects` where given, else every class but the normal one: `normal` where given,
    else the first of normal, ok, good, no_defect and none that there is. Where there is none of
    them all classes are defects. Raises UsageError for a name that is no class, or for a normal
    defect.
    """
    for name in (*([normal] if normal is not None else []), *(defects or ())):
        if name not in class_names:
            raise UsageError(f"'{name}' is not one of the classes: {', '.join(class_names)}")
    if defects is not None:
        if normal in defects:
            raise UsageError(f"'{normal}' cannot be both the normal class and a defect class")
        return tuple(name for name in class_names if name in defects)
    if normal is None:
        by_lower_case = {name.lower(): name for name in class_names}
        known = (by_lower_case[name] for name in _NORMAL_CLASS_NAMES if name in by_lower_case)
        normal = next(known, None)
    return tuple(name for name in class_names if name != normal)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and register as the command line asks and return the exit status."""
    # The batches are small: more threads would wait for each other longer than they work.
    torch.set_num_threads(min(2, torch.get_num_threads()))
    try:
        return run(_train_and_register, _parser(), arguments)
    except KeyboardInterrupt:
        print("error: interrupted, nothing was registered", file=sys.stderr)
        return 130


def _train_and_register(options: argparse.Namespace) -> None:
    # A mistyped option should not wait seconds for MLflow.
    from examples import registration

    registration.check_names(options.name, options.alias)
    say(f"reading {options.data}")
    dataset = read_folder(options.data, options.size, options.bit_depth)
    defects = choose_defect_classes(
        dataset.class_names, normal=options.normal_class, defects=options.defect_classes
    )
    if unknown := sorted((options.class_mix or {}).keys() - set(dataset.class_names)):
        classes = ", ".join(dataset.class_names)
        raise UsageError(f"'{unknown[0]}' is not one of the classes: {classes}")
    parts = split(dataset, seed=options.seed)
    _, channels, height, width = dataset.pixels.shape
    say(
        f"{len(dataset)} images of {len(dataset.class_names)} classes as "
        f"{channels}x{height}x{width}: {len(parts.train)} to train on, "
        f"{len(parts.held_out)} held out"
    )
    if dataset.duplicates:
        say(f"note: duplicate pictures left out: {dataset.duplicates}")
    say(f"defect classes: {', '.join(defects) or 'none'}")
    if len(defects) == len(dataset.class_names):
        say(
            "note: no class is the normal one, so every picture will be a defect; "
            "name it with --normal-class, or the defects with --defect-classes"
        )
    say(f"opening the registry at {options.tracking_uri}")
    experiment = registration.open_experiment(options.tracking_uri, options.name)

    started = time.monotonic()
    network, losses = _fit_with_progress(parts, options)
    evaluation = evaluate(network, parts.held_out)
    seconds = time.monotonic() - started
    _print_evaluation(evaluation, dataset.class_names)

    say("registering")
    version = registration.register(
        experiment,
        network,
        registration.TrainingRecord(
            class_names=dataset.class_names,
            defect_classes=defects,
            bit_depth=options.bit_depth,
            params={
                "epochs": options.epochs,
                "data": options.data.resolve(),
                "seed": options.seed,
                "flips": options.flips,
                "channels": channels,
                "height": height,
                "width": width,
                "training_images": len(parts.train),
                "held_out_images": len(parts.held_out),
            },
            metrics={
                "held_out_accuracy": evaluation.accuracy,
                "training_seconds": seconds,
                **{
                    f"held_out_recall_of_{_metric_name(name)}": evaluation.recall(index)
                    for index, name in enumerate(dataset.class_names)
                },
            },
            losses=losses,
            profile=profile_of(network, parts, options.class_mix),
        ),
        example=parts.train.pixels[:2].numpy(),
        model_name=options.name,
        alias=options.alias,
    )
    say(
        f"held-out accuracy {evaluation.accuracy:.1%} "
        f"({evaluation.correct} of {evaluation.count} images)"
    )
    say(f"registered {options.name} version {version}, alias {options.alias}")


def _fit_with_progress(
    parts: Split, options: argparse.Namespace
) -> tuple[SurfaceNetwork, list[float]]:
    losses: list[float] = []

    def report(epoch: int, loss: float) -> None:
        losses.append(loss)
        say(f"epoch {epoch:>3} of {options.epochs}  training loss {loss:.4f}")

    network = fit(
        parts.train, epochs=options.epochs, seed=options.seed, flips=options.flips, report=report
    )
    return network, losses


def _print_evaluation(evaluation: Evaluation, class_names: Sequence[str]) -> None:
    """Print a row per true class: how many were found, and what they were taken for."""
    label_width = max(len("class"), *(len(name) for name in class_names))
    columns = [max(4, len(name)) for name in class_names]
    header = "  ".join(
        f"{name:>{column}}" for name, column in zip(class_names, columns, strict=True)
    )
    say("\nheld-out images, true class by row, predicted class by column\n")
    say(f"{'class':{label_width}}   found  {header}")
    for index, name in enumerate(class_names):
        counts = "  ".join(
            f"{count:>{column}}"
            for count, column in zip(evaluation.confusion[index].tolist(), columns, strict=True)
        )
        say(f"{name:{label_width}}  {evaluation.recall(index):>6.1%}  {counts}")
    say("")


def _metric_name(class_name: str) -> str:
    """Return the class's name with what MLflow refuses in a metric's name replaced."""
    return re.sub(r"[^\w.\- ]", "_", class_name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.train",
        description="Train the demo network on FOLDER/<class>/*.png|jpg|bmp and register it.",
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="FOLDER", help="images, a folder per class")
    add_model_options(parser, "--name", alias="alias to point at the new version")
    add("--normal-class", metavar="CLASS", help="the class without a defect")
    add(
        "--defect-classes",
        type=_names,
        metavar="A,B",
        help="the classes that are defects (all but the normal one)",
    )
    add(
        "--class-mix",
        type=_shares,
        metavar="A=0.9,B=0.1",
        help="share of classes where the model is to serve, to compare with what comes (the "
        "folder's own)",
    )
    add("--epochs", type=_positive, default=30, help="passes over the training images (30)")
    add("--seed", type=_not_negative, default=0, help="of the split and the training (0)")
    add(
        "--size",
        type=_size,
        metavar="N|HxW",
        help="scale images to this many pixels (their own median size, at most 64)",
    )
    add(
        "--bit-depth",
        type=_positive,
        choices=range(8, 17),
        metavar="N",
        help="bits that the camera uses of 16-bit images (what the files say, or all 16)",
    )
    add(
        "--flips",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also train on mirrored images; switch off where left and right matter",
    )
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _shares(text: str) -> dict[str, float]:
    try:
        pairs = (part.rpartition("=") for part in _names(text))
        shares = {name.strip(): float(share) for name, _, share in pairs}
    except ValueError:
        shares = {}
    if not shares or min(shares.values()) < 0 or sum(shares.values()) > 1 + 1e-9:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a list of classes with their shares, 1 in all at most: normal=0.95"
        )
    return shares


def _positive(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,6}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def _not_negative(text: str) -> int:
    return 0 if text == "0" else _positive(text)


def _size(text: str) -> tuple[int, int]:
    height, separator, width = text.lower().partition("x")
    return _positive(height), _positive(width if separator else height)


if __name__ == "__main__":
    sys.exit(main())
