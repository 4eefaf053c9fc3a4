"""`make compare`: two registered versions on labelled pictures of a folder."""

from pathlib import Path

import pytest

from examples.compare import main
from tests.support.images import colour_file
from tests.support.models import COLOUR_CLASSES, COLOURS, UNNAMED, ModelStore, point_alias

pytestmark = pytest.mark.slow

_COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def write(folder: Path, *, each: int = 30, classes: tuple[str, ...] = COLOUR_CLASSES) -> Path:
    for name, colour in zip(classes, _COLOURS, strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            content = colour_file(colour, size=(16 + number, 16))
            (folder / name / f"{number:03}.png").write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def uri(model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> str:
    copy = model_store.copy(tmp_path_factory.mktemp("registry"))
    point_alias(copy.tracking_uri, COLOURS, "2", alias="challenger")
    return copy.tracking_uri


def compare(uri: str, *arguments: str, model: str = COLOURS) -> int:
    return main(["--tracking-uri", uri, "--model", model, *arguments])


def test_a_challenger_that_knows_none_of_the_classes_is_worse(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(uri, "--data", str(write(tmp_path / "pictures"))) == 0
    said = capsys.readouterr().out
    assert "version 1 (production) against version 2 (challenger)" in said
    assert "90 labelled pictures, 60 of them defects" in said
    (row,) = [line for line in said.splitlines() if line.startswith("right class")]
    assert row.split()[2:5] == ["100.0%", "0.0%", "-100.0%"]
    assert row.endswith("worse")
    # It has no defect classes, so that every defect passes.
    (row,) = [line for line in said.splitlines() if line.startswith("escape rate")]
    assert row.split()[2:5] == ["0.0%", "100.0%", "+100.0%"]
    assert said.splitlines()[-1] == "the challenger is worse"


def test_the_other_way_round_it_is_better(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(write(tmp_path / "pictures"))
    assert compare(uri, "--data", folder, "--alias", "2", "--challenger", "1") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "the challenger is better"


def test_a_class_that_neither_model_has_is_told(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "pictures", each=2, classes=("good", "scratch", "rust"))
    assert compare(uri, "--data", str(folder)) == 0
    assert "neither model has the class rust" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "model", "says"),
    [
        (("--challenger", "1"), COLOURS, "are both version 1 of colours"),
        (("--challenger", "nobody"), COLOURS, "nobody"),
        ((), UNNAMED, "challenger"),
        (("--data", "nowhere"), COLOURS, "'nowhere' is not a folder"),
        (("--logging-url", "http://127.0.0.1:9"), COLOURS, "refused"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_line(
    uri: str,
    arguments: tuple[str, ...],
    model: str,
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert compare(uri, *arguments, model=model) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert says in said
    assert len(said.splitlines()) == 1
