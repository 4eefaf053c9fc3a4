"""A registered model is input from outside: what its files may hold, and that none of it runs."""

import contextlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bentos.inference.model import archive as module
from bentos.inference.model.archive import (
    EXPORTED,
    PICKLE_SWITCH,
    check_files,
    read_description,
    read_program,
)
from bentos.inference.model.spec import UnusableModel
from tests.support.exported import (
    CONSTANTS,
    GRAPH,
    SAMPLES,
    SHAPE,
    WEIGHTS,
    Archive,
    change,
    export,
    pickled,
)

Edit = Callable[[Archive, Path], None]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("exported") / EXPORTED)


@pytest.fixture
def path(tmp_path: Path, exported: Path) -> Path:
    """A file of its own in a folder of its own."""
    folder = tmp_path / "data"
    folder.mkdir()
    return Path(shutil.copy(exported, folder))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


def test_a_model_of_operators_and_tensors_answers_as_torchs_own_loader_makes_it(
    path: Path,
) -> None:
    inputs = torch.randn(5, *SHAPE)
    ours, theirs = read_program(path), torch.export.load(str(path)).module()
    torch.testing.assert_close(ours(inputs), theirs(inputs))


class _Many(torch.nn.Module):  # type: ignore[misc]
    """Shared weights, a constant, an empty buffer, scalars, a mode, an equation, a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
        self.second = torch.nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("table", torch.arange(8.0).reshape(2, 4).t(), persistent=False)
        self.constant = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            mixed = torch.einsum("bi,ij->bj", self.first(numbers), self.table)
        pooled = torch.nn.functional.gelu(self.second(numbers), approximate="tanh")
        flat = pooled.reshape(numbers.shape[0] // 1, -1) + self.constant
        return torch.cat([mixed, flat.view(numbers.shape[0], 4)[:, : 2 * 1]], dim=1)


def test_so_does_one_with_shared_weights_constants_and_shapes_that_are_computed(
    tmp_path: Path,
) -> None:
    model, example = _Many().eval(), torch.randn(3, 4)
    batch = torch.export.Dim("batch", max=32)
    program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
    torch.export.save(program, str(tmp_path / EXPORTED))
    read = read_program(tmp_path / EXPORTED)
    inputs = torch.randn(7, 4)
    torch.testing.assert_close(read(inputs), model(inputs))


class _Residual(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1),
            torch.nn.BatchNorm2d(8),
            torch.nn.SiLU(),
            torch.nn.Conv2d(8, 8, 3, padding=1, groups=8),
            torch.nn.GroupNorm(2, 8),
        )
        self.skip = torch.nn.Conv2d(3, 8, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.body(pixels) + self.skip(pixels))
        smaller = torch.nn.functional.interpolate(features, scale_factor=0.5, mode="bilinear")
        kept = (smaller > 0.1) & (smaller < 5)
        return torch.where(kept, smaller, 0.0).mean(dim=(2, 3))


class _Transformer(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 16, 4, 4)
        layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.encoder(self.patches(pixels).flatten(2).transpose(1, 2)).mean(1).softmax(-1)


class _Branch(torch.nn.Module):  # type: ignore[misc]
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            mean = torch.matmul(pixels, pixels.transpose(2, 3)).float().mean(dim=(2, 3))
        return torch.cond(mean.sum() > 0, lambda one: one + 1, lambda one: one - 1, (mean,))


class _Arguments(torch.nn.Module):  # type: ignore[misc]
    """Operators with every kind of argument and of result: lists, types, layouts, loops."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        padded = torch.nn.functional.pad(pixels, (1, 1), value=float("-inf"))
        first, *_ = padded.to(torch.float64, memory_format=torch.channels_last).split([1, 2], dim=1)
        values, places = first.float().flatten(1).topk(4)
        left, right = torch.chunk(values, 2, dim=1)
        rows = torch.arange(pixels.shape[0], device=pixels.device, dtype=torch.int64)
        picked = pixels[rows, :, torch.tensor([0])].sum(-1)
        mask = torch.full((pixels.shape[0], 2), True, dtype=torch.bool)
        more = torch.where(mask, left, right) + places[:, :2].clamp(max=1)
        _, more = torch._higher_order_ops.while_loop(
            lambda count, _: count < 3,
            lambda count, grown: (count + 1, grown * 2),
            (torch.tensor(0), more),
        )
        return torch.cat([more, picked], dim=1)


@pytest.mark.parametrize("kind", [_Residual, _Transformer, _Branch, _Arguments])
def test_models_as_people_build_them_are_read(tmp_path: Path, kind: type[torch.nn.Module]) -> None:
    torch.manual_seed(0)
    model, example = kind().eval(), torch.randn(2, 3, 16, 16)
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(
        torch.export.export(model, (example,), dynamic_shapes=shapes), str(tmp_path / EXPORTED)
    )
    inputs = torch.randn(5, 3, 16, 16)
    read = read_program(tmp_path / EXPORTED)
    torch.testing.assert_close(read(inputs), model(inputs), atol=1e-4, rtol=1e-3)


class _Wrapped(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, wrap: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self._wrap = wrap

    def forward(self, numbers: torch.Tensor) -> Any:
        return self._wrap(numbers * 2)


@pytest.mark.parametrize("wrap", [lambda one: (one,), lambda one: {"scores": one}])
def test_the_one_tensor_of_an_answer_may_stand_in_a_tuple_or_a_dictionary(
    tmp_path: Path, wrap: Callable[[torch.Tensor], Any]
) -> None:
    program = torch.export.export(_Wrapped(wrap), (torch.zeros(2, 3),))
    torch.export.save(program, str(tmp_path / EXPORTED))
    read = read_program(tmp_path / EXPORTED)
    assert read(torch.ones(2, 3)).tolist() == [[2.0] * 3] * 2
    assert read.batch == 2


def test_a_model_of_two_answers_is_refused(tmp_path: Path) -> None:
    program = torch.export.export(_Wrapped(lambda one: (one, one + 1)), (torch.zeros(2, 3),))
    torch.export.save(program, str(tmp_path / EXPORTED))
    with pytest.raises(UnusableModel, match="1 inputs and 2 outputs"):
        read_program(tmp_path / EXPORTED)


def _graph(edit: Callable[[dict[str, Any], Path], None]) -> Edit:
    def apply(archive: Archive, marker: Path) -> None:
        graph = archive.json(GRAPH)
        edit(graph, marker)
        archive.put(GRAPH, graph)

    return apply


def _expression(graph: dict[str, Any], marker: Path) -> None:
    size = graph["graph_module"]["graph"]["tensor_values"]["input"]["sizes"][0]
    size["as_expr"]["expr_str"] = f"__import__('pathlib').Path('{marker}').touch() or Integer(2)"


def _expressions(graph: dict[str, Any], marker: Path) -> None:
    """Spoil the sizes of what operators return: only that of the input says anything."""
    values = graph["graph_module"]["graph"]["tensor_values"]
    for name, value in values.items():
        if name != "input":
            text = f"__import__('pathlib').Path('{marker}').touch() or Integer(2)"
            value["sizes"] = [{"as_expr": {"expr_str": text, "hint": None}}]


def _operator(graph: dict[str, Any], marker: Path) -> None:
    call = {
        "target": "torch.os.system",
        "inputs": [{"name": "", "arg": {"as_string": f"touch {marker}"}, "kind": 1}],
        "outputs": [{"as_none": True}],
        "metadata": {},
        "name": "run",
    }
    graph["graph_module"]["graph"]["nodes"].insert(0, call)


def _attribute(graph: dict[str, Any], _: Path) -> None:
    node = graph["graph_module"]["graph"]["nodes"][0]
    node["target"] = "torch.ops.aten.__class__.__subclasses__"


def _endless_count(graph: dict[str, Any], _: Path) -> None:
    graph["range_constraints"]["u99999999999"] = {"min_val": 0, "max_val": 9}


def _operator_argument(graph: dict[str, Any], _: Path) -> None:
    node = graph["graph_module"]["graph"]["nodes"][0]
    node["inputs"].append({"name": "f", "arg": {"as_operator": "torch.os.system"}, "kind": 2})


def _file_operator(graph: dict[str, Any], marker: Path) -> None:
    node = graph["graph_module"]["graph"]["nodes"][0]
    node["target"] = "torch.ops.aten.from_file.default"
    node["inputs"] = [{"name": "filename", "arg": {"as_string": str(marker)}, "kind": 1}]


def _guard(graph: dict[str, Any], marker: Path) -> None:
    graph["guards_code"] = [f"__import__('pathlib').Path('{marker}').touch() is None"]


def _parameter_name(graph: dict[str, Any], marker: Path) -> None:
    spec = graph["graph_module"]["signature"]["input_specs"][0]["parameter"]
    spec["parameter_name"] = f'x", __import__("pathlib").Path("{marker}").touch(), "'


def _node_name(graph: dict[str, Any], marker: Path) -> None:
    text = json.dumps(graph["graph_module"]["graph"]).replace(
        '"input"', f"\"x = __import__('pathlib').Path('{marker}').touch()\""
    )
    graph["graph_module"]["graph"] = json.loads(text)


def _tree(graph: dict[str, Any], _: Path) -> None:
    signature = graph["graph_module"]["module_call_graph"][0]["signature"]
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    context = json.dumps({"default_factory_module": "antigravity", "default_factory_name": "x"})
    kind = {"type": "collections.defaultdict", "context": context, "children_spec": [leaf]}
    signature["out_spec"] = json.dumps([1, kind])


def _endless_power(graph: dict[str, Any], _: Path) -> None:
    size = graph["graph_module"]["graph"]["tensor_values"]["input"]["sizes"][0]
    size["as_expr"]["expr_str"] = "Pow(Integer(9), Pow(Integer(9), Integer(9999)))"


def _pickled_weight(archive: Archive, marker: Path) -> None:
    config = archive.json(WEIGHTS)
    entry = next(iter(config["config"].values()))
    entry["use_pickle"] = True
    archive.put(WEIGHTS, config)
    archive.put(f"data/weights/{entry['path_name']}", pickled(marker))


def _opaque_constant(archive: Archive, marker: Path) -> None:
    entry = {
        "path_name": "opaque_obj_0",
        "is_param": False,
        "use_pickle": True,
        "tensor_meta": None,
    }
    archive.put(CONSTANTS, {"config": {"thing": entry}})
    archive.put("data/constants/opaque_obj_0", pickled(marker, by_torch=False))


def _legacy_weights(archive: Archive, marker: Path) -> None:
    archive.put("data/weights/model.pt", pickled(marker))


def _library(archive: Archive, _: Path) -> None:
    archive.put("data/aotinductor/model/library.so", b"\x7fELF")


def _outside(archive: Archive, _: Path) -> None:
    archive.put("data/weights/../../../weight_0", b"")


def _weight_of_another_file(archive: Archive, _: Path) -> None:
    config = archive.json(WEIGHTS)
    next(iter(config["config"].values()))["path_name"] = "../../models/model.json"
    archive.put(WEIGHTS, config)


def _weight_beyond_its_file(archive: Archive, _: Path) -> None:
    config = archive.json(WEIGHTS)
    meta = next(iter(config["config"].values()))["tensor_meta"]
    meta["sizes"][0]["as_int"] = 2**40
    archive.put(WEIGHTS, config)


REFUSED: dict[str, Edit] = {
    "an expression that is evaluated": _graph(_expression),
    "any callable below torch as an operator": _graph(_operator),
    "an attribute as an operator": _graph(_attribute),
    "any callable as an argument": _graph(_operator_argument),
    "an operator that opens files": _graph(_file_operator),
    "a parameter's name that becomes code": _graph(_parameter_name),
    "a node's name that becomes code": _graph(_node_name),
    "a number without end": _graph(_endless_power),
    "a pickled weight": _pickled_weight,
    "a pickled constant": _opaque_constant,
    "pickled weights of an older format": _legacy_weights,
    "a compiled library": _library,
    "a path out of the archive": _outside,
    "a weight that is another file": _weight_of_another_file,
    "a weight larger than its file": _weight_beyond_its_file,
}


@pytest.mark.case(23)
@pytest.mark.parametrize("attack", REFUSED)
def test_an_archive_that_could_run_code_is_refused_and_nothing_of_it_runs(
    path: Path, marker: Path, attack: str
) -> None:
    """Registered: an exported model with pickles, code in its graph or files of others: refused."""
    change(path, lambda archive: REFUSED[attack](archive, marker))
    with pytest.raises(UnusableModel, match=EXPORTED):
        read_program(path)
    assert not marker.exists()


def _sample_inputs(archive: Archive, marker: Path) -> None:
    archive.put(SAMPLES, pickled(marker))


@pytest.mark.case(23)
@pytest.mark.parametrize(
    "edit",
    [_sample_inputs, _graph(_guard), _graph(_endless_count), _graph(_tree), _graph(_expressions)],
)
def test_parts_that_are_not_needed_are_never_read(path: Path, marker: Path, edit: Edit) -> None:
    """Registered: a pickle as a sample input, code as a guard or a size: these are never read."""
    inputs = torch.randn(2, *SHAPE)
    before = read_program(path)(inputs)
    change(path, lambda archive: edit(archive, marker))
    torch.testing.assert_close(read_program(path)(inputs), before)
    assert not marker.exists()


@pytest.mark.parametrize(
    "edit",
    [_graph(_expression), _graph(_guard), _sample_inputs, _pickled_weight, _opaque_constant],
)
def test_these_attacks_work_on_torchs_own_loader(path: Path, marker: Path, edit: Edit) -> None:
    change(path, lambda archive: edit(archive, marker))
    with contextlib.suppress(Exception):
        torch.export.load(str(path)).module()(torch.zeros(2, *SHAPE))
    assert marker.exists()


@pytest.mark.case(23)
def test_an_archive_cannot_unfold_to_more_than_it_is(path: Path) -> None:
    """Registered: an archive whose members are compressed, as a bomb's are, or claimed twice."""
    bomb = path.with_name("bomb")
    bomb.write_bytes(path.read_bytes())
    change(bomb, lambda archive: None, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UnusableModel, match="compressed"):
        read_program(bomb)
    twice = path.with_name("twice")
    twice.write_bytes(path.read_bytes())
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(twice, "a") as archive:
        archive.writestr(f"model/{GRAPH}", "{}")
    with pytest.raises(UnusableModel, match="is not taken"):
        read_program(twice)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + b"\0" * 18])
def test_a_file_that_is_no_archive_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UnusableModel, match=EXPORTED):
        read_program(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [(GRAPH, b"[" * 100_000), (GRAPH, b"{"), (GRAPH, b"{}"), (WEIGHTS, b"[]"), (WEIGHTS, b"null")],
)
def test_descriptions_that_make_no_sense_are_refused(path: Path, name: str, content: bytes) -> None:
    change(path, lambda archive: archive.put(name, content))
    with pytest.raises(UnusableModel, match=EXPORTED):
        read_program(path)


def test_a_graph_that_is_far_too_large_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_JSON_BYTES", 1_000)
    with pytest.raises(UnusableModel, match="more than 1000 bytes"):
        read_program(path)


@pytest.mark.case(23)
@pytest.mark.parametrize(
    "name",
    [
        *("code/helper.py", "code/__init__.py", "data/model.pth", "data/pickle_module_info.txt"),
        *("data/extra.pkl", "loader.py", "data/library.so"),
    ],
)
def test_a_model_that_brings_code_or_a_pickle_is_refused(path: Path, name: str) -> None:
    """Registered: model.pt2 with a code folder, a model.pth or a pickle module beside it."""
    folder = path.parents[1]
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("raise SystemExit")
    with pytest.raises(UnusableModel, match="brings code or a pickle") as refused:
        check_files(folder)
    assert PICKLE_SWITCH in str(refused.value)


@pytest.mark.case(23)
def test_a_link_in_a_model_is_refused(path: Path, tmp_path: Path) -> None:
    """Registered: a folder with a symbolic link, which may lead to any file of the pod."""
    (path.parent / "weights").symlink_to("/etc")
    with pytest.raises(UnusableModel, match="a link may lead anywhere"):
        check_files(tmp_path)


_REPEATED = "".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 10)}]\n" for n in range(1, 12))
_MERGED = "".join(f"b{n}: &b{n}\n  <<: [{', '.join([f'*b{n - 1}'] * 10)}]\n" for n in range(1, 12))


@pytest.mark.case(65)
@pytest.mark.parametrize(
    "description",
    [
        f"b0: &b0 [x]\n{_REPEATED}model_data: *b11\n",
        f"b0: &b0 {{x: y}}\n{_MERGED}",
        "b0: &b0 [*b0]\n",
    ],
    ids=["repeated", "merged", "circle"],
)
def test_a_description_that_stands_for_gigabytes_is_refused(
    description: str, tmp_path: Path
) -> None:
    """Registered: an MLmodel of 1 kB whose YAML aliases stand for gigabytes: refused unread."""
    path = tmp_path / "MLmodel"
    path.write_text(description)
    with pytest.raises(UnusableModel, match="aliases"):
        read_description(path)


def test_a_description_may_repeat_a_value(tmp_path: Path) -> None:
    path = tmp_path / "MLmodel"
    path.write_text("class_names: &names [good, bad]\ndefect_classes: *names\n")
    names = ["good", "bad"]
    assert read_description(path) == {"class_names": names, "defect_classes": names}


@pytest.mark.parametrize(
    "content",
    [b"a: [", b"\xff\xfe\x00", b"a: *nothing", b"[" * 5_000, b"x" * 5_000_000, b"a: 2001-99-99"],
)
def test_a_description_that_is_no_yaml_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "MLmodel"
    path.write_bytes(content)
    with pytest.raises(UnusableModel, match="MLmodel"):
        read_description(path)
