"""Draws images of steel surfaces, sound and with defects, as PNG files for the demo model.

Run `python -m examples.steel_images --out FOLDER --per-class N --seed S`.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Field = NDArray[np.float64]
Point = tuple[float, float]

SIDE: Final = 32
NORMAL: Final = "normal"
# Lines thinner than a pixel need finer shapes than the image has pixels.
_OVERSAMPLING: Final = 4


class Layer(NamedTuple):
    """One thing on the surface: where it lies, and by how much it changes the reflected light.

    `mask` is [height, width] in 0..1; `gain` multiplies red, green and blue where the mask is 1.
    """

    mask: Field
    gain: tuple[float, float, float]


def draw(kind: str, random: np.random.Generator) -> Image.Image:
    """Draw one surface of a kind named by `class_names`, as a 32x32 RGB image.

    Raises KeyError for an unknown kind.
    """
    surface = _bare_surface(random)
    for layer in (*_dust(random), *_DEFECTS[kind](random)):
        gain = np.asarray(layer.gain) - 1.0
        surface = surface * (1.0 + layer.mask[..., np.newaxis] * gain)
    surface = surface + random.normal(0.0, random.uniform(0.006, 0.018), (SIDE, SIDE, 1))
    surface = surface + random.normal(0.0, 0.004, (SIDE, SIDE, 3))
    return Image.fromarray(np.rint(np.clip(surface, 0.0, 1.0) * 255.0).astype(np.uint8), "RGB")


def class_names() -> tuple[str, ...]:
    """Return the kinds of surface that can be drawn, in alphabetical order."""
    return tuple(sorted(_DEFECTS))


def write_images(folder: Path, per_class: int, seed: int) -> list[Path]:
    """Write `per_class` images of every kind to `folder/<class>/NNN.png` and return their paths.

    An image depends on the seed, its class and its number alone. Raises ValueError where
    `per_class` is under 1 or the seed is negative, OSError where a file cannot be written.
    """
    if per_class < 1:
        raise ValueError(f"the number of images per class must be at least 1, not {per_class}")
    if seed < 0:
        raise ValueError(f"the seed must not be negative, not {seed}")
    written = []
    for index, kind in enumerate(class_names()):
        class_folder = folder / kind
        class_folder.mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            path = class_folder / f"{number:03d}.png"
            draw(kind, np.random.default_rng((seed, index, number))).save(path)
            written.append(path)
    return written


def _bare_surface(random: np.random.Generator) -> Field:
    """Return brushed metal under uneven light, [height, width, 3] in about 0..1."""
    tone = np.full((SIDE, SIDE), random.uniform(0.42, 0.66))
    # Brushing leaves streaks along the rolling direction: noise that is coarse along x only.
    for columns, strength in ((2, 0.030), (5, 0.022), (12, 0.014)):
        noise = Image.fromarray(random.normal(size=(SIDE, columns)).astype(np.float32))
        streaks = np.asarray(noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        tone = tone + random.uniform(0.5, 1.3) * strength * streaks
    y, x = np.mgrid[-1.0 : 1.0 : SIDE * 1j, -1.0 : 1.0 : SIDE * 1j]
    angle = random.uniform(0.0, 2.0 * math.pi)
    gradient = random.uniform(0.0, 0.22) * (x * math.cos(angle) + y * math.sin(angle))
    lamp_x, lamp_y = random.uniform(-1.2, 1.2, size=2)
    spot = random.uniform(0.0, 0.15) * np.exp(-((x - lamp_x) ** 2 + (y - lamp_y) ** 2))
    tint = 1.0 + random.normal(0.0, 0.012, 3) + np.array([-0.015, 0.0, 0.02])
    lit = tone * (1.0 + gradient + spot)
    return np.asarray(lit[..., np.newaxis] * tint)


def _shape(paint: Callable[[ImageDraw.ImageDraw, int], None], blur: float) -> Field:
    """Return what `paint` draws as a mask with smooth edges; `blur` in pixels of the image.

    `paint` is given a canvas and the number of its points to a pixel of the image.
    """
    canvas = Image.new("L", (SIDE * _OVERSAMPLING, SIDE * _OVERSAMPLING))
    paint(ImageDraw.Draw(canvas), _OVERSAMPLING)
    smooth = canvas.filter(ImageFilter.GaussianBlur(blur * _OVERSAMPLING))
    reduced = smooth.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(reduced, dtype=np.float64) / 255.0


def _line(points: Sequence[Point], width: float, blur: float = 0.25) -> Field:
    """Return the mask of a line through points, all in pixels of the image."""

    def paint(canvas: ImageDraw.ImageDraw, scale: int) -> None:
        scaled = [(x * scale, y * scale) for x, y in points]
        canvas.line(scaled, fill=255, width=max(1, round(width * scale)), joint="curve")

    return _shape(paint, blur)


def _blob(
    centre: Point, radii: Point, random: np.random.Generator, roughness: float, blur: float
) -> Field:
    """Return the mask of a roundish spot whose outline strays by `roughness` of its radius."""
    angles = np.linspace(0.0, 2.0 * math.pi, 18, endpoint=False)
    reach = 1.0 + random.normal(0.0, roughness, angles.size)
    outline = [
        (centre[0] + radii[0] * r * math.cos(a), centre[1] + radii[1] * r * math.sin(a))
        for a, r in zip(angles, reach, strict=True)
    ]

    def paint(canvas: ImageDraw.ImageDraw, scale: int) -> None:
        canvas.polygon([(x * scale, y * scale) for x, y in outline], fill=255)

    return _shape(paint, blur)


def _place(random: np.random.Generator, margin: float) -> Point:
    """Return a random place at least `margin` pixels from every edge."""
    x, y = random.uniform(margin, SIDE - margin, size=2)
    return float(x), float(y)


def _grey(gain: float) -> tuple[float, float, float]:
    return gain, gain, gain


def _dust(random: np.random.Generator) -> list[Layer]:
    """Return faint specks, which lie on every surface and are no defect."""
    return [
        Layer(
            _blob(_place(random, 1.0), (0.7, 0.7), random, 0.1, 0.3),
            _grey(random.uniform(0.86, 1.14)),
        )
        for _ in range(random.integers(0, 4))
    ]


def _normal(_: np.random.Generator) -> list[Layer]:
    return []


def _scratch(random: np.random.Generator) -> list[Layer]:
    """A bright, nearly straight groove with a shadow beside it, at an angle to the brushing."""
    x, y = _place(random, 9.0)
    angle = random.uniform(0.25, math.pi - 0.25)
    half = random.uniform(7.0, 15.0)
    bend = random.uniform(-2.0, 2.0)
    along, across = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))

    def curve(offset: float) -> list[Point]:
        points = []
        for t in np.linspace(-1.0, 1.0, 9):
            aside = bend * (1.0 - t * t) + offset
            points.append(
                (
                    float(x + half * t * along[0] + aside * across[0]),
                    float(y + half * t * along[1] + aside * across[1]),
                )
            )
        return points

    width = random.uniform(0.7, 1.3)
    return [
        Layer(_line(curve(width), width * 0.8), _grey(random.uniform(0.68, 0.88))),
        Layer(_line(curve(0.0), width), _grey(random.uniform(1.35, 1.75))),
    ]


def _pit(random: np.random.Generator) -> list[Layer]:
    """Small round holes: dark inside, with a bright rim on the side away from the lamp."""
    light = random.uniform(0.0, 2.0 * math.pi)
    layers = []
    for _ in range(random.integers(1, 5)):
        x, y = _place(random, 4.0)
        radius = random.uniform(1.5, 2.7)
        rim = (x + 0.55 * radius * math.cos(light), y + 0.55 * radius * math.sin(light))
        radii = (radius, radius * random.uniform(0.85, 1.15))
        layers.append(
            Layer(_blob(rim, radii, random, 0.05, 0.35), _grey(random.uniform(1.2, 1.45)))
        )
        layers.append(
            Layer(_blob((x, y), radii, random, 0.06, 0.3), _grey(random.uniform(0.3, 0.58)))
        )
    return layers


def _inclusion(random: np.random.Generator) -> list[Layer]:
    """Foreign matter rolled into the surface: dark brownish shreds stretched along x."""
    x, y = _place(random, 8.0)
    depth = random.uniform(0.35, 0.62)
    layers = []
    for _ in range(random.integers(1, 4)):
        centre = (x + random.normal(0.0, 4.0), y + random.normal(0.0, 2.2))
        radii = (random.uniform(4.0, 8.5), random.uniform(0.8, 1.7))
        shred = _blob(centre, radii, random, 0.22, 0.35)
        layers.append(Layer(shred, (depth * 1.12, depth, depth * 0.88)))
    return layers


def _crack(random: np.random.Generator) -> list[Layer]:
    """A thin, dark, jagged line, often forked."""
    depth = _grey(random.uniform(0.22, 0.5))
    width = random.uniform(0.7, 1.25)
    heading = random.uniform(0.0, 2.0 * math.pi)
    x, y = _place(random, 11.0)
    start = (x - 8.0 * math.cos(heading), y - 8.0 * math.sin(heading))
    trunk = _jagged(random, start, heading, int(random.integers(7, 12)))
    layers = [Layer(_line(trunk, width), depth)]
    if random.random() < 0.6:
        fork = trunk[len(trunk) // 2]
        turned = heading + random.choice((-1.0, 1.0)) * random.uniform(0.6, 1.1)
        branch = _jagged(random, fork, turned, int(random.integers(3, 6)))
        layers.append(Layer(_line(branch, width * 0.8), depth))
    return layers


def _jagged(random: np.random.Generator, start: Point, heading: float, steps: int) -> list[Point]:
    points = [start]
    for _ in range(steps):
        turned = heading + random.normal(0.0, 0.65)
        stride = random.uniform(1.6, 3.0)
        x, y = points[-1]
        points.append((x + stride * math.cos(turned), y + stride * math.sin(turned)))
    return points


def _stain(random: np.random.Generator) -> list[Layer]:
    """A wide, soft-edged discolouration: rust-brown, or the blue of heated steel."""
    x, y = _place(random, 8.0)
    mask = np.zeros((SIDE, SIDE))
    for _ in range(random.integers(2, 5)):
        centre = (x + random.normal(0.0, 3.0), y + random.normal(0.0, 3.0))
        radii = (random.uniform(3.5, 7.5), random.uniform(3.5, 7.5))
        mask = np.maximum(mask, _blob(centre, radii, random, 0.1, 1.2))
    strength = random.uniform(0.55, 1.0)
    full = (0.84, 0.70, 0.52) if random.random() < 0.6 else (0.66, 0.78, 0.94)
    red, green, blue = (1.0 + strength * (gain - 1.0) for gain in full)
    return [Layer(mask, (red, green, blue))]


_DEFECTS: Final[dict[str, Callable[[np.random.Generator], list[Layer]]]] = {
    "crack": _crack,
    "inclusion": _inclusion,
    NORMAL: _normal,
    "pit": _pit,
    "scratch": _scratch,
    "stain": _stain,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the images that the command line asks for and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.steel_images", description="Draw images of steel surfaces."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--per-class", type=int, default=200, help="images per class (200)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same images (0)")
    options = parser.parse_args(arguments)
    try:
        written = write_images(options.out, options.per_class, options.seed)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(written)} images of {len(class_names())} classes in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
