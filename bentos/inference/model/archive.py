"""Model files to a PyTorch module, without running anything that the files hold.

A registered model is input from outside. Everything that a loader of MLflow or PyTorch would
execute is either refused or never read: `code` folders, pickles (`model.pth`, pickled weights,
constants and sample inputs), compiled libraries, custom objects, and, in the graph itself, the
expressions that `torch.export` hands to `eval` and the names that it resolves to any callable
below `torch`. What stays is a graph of PyTorch's own operators and plain tensors. What these
operators can be made to do with hostile numbers is PyTorch's own matter.
"""

import ast
import json
import re
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from bentos.inference.model.spec import UnusableModel

PICKLE_SWITCH = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"
EXPORTED = "model.pt2"
MAX_FILES = 10_000
MAX_JSON_BYTES = 64 * 1024 * 1024
_COPY_BYTES = 1 << 20

_CODE_NAMES = frozenset({"code", "model.pth", "pickle_module_info.txt"})
_CODE_SUFFIXES = (".py", ".pyc", ".pkl", ".pickle", ".pth", ".so", ".sh")
# What `torch.export.save` writes, below the archive's one folder.
_MEMBERS = re.compile(
    r"(models/model\.json|archive_format|archive_version|byteorder|\.data/\w+|extra/[\w./-]+"
    r"|data/sample_inputs/model\.pt|data/(weights|constants)/\w+(\.json)?)",
    re.ASCII,
)
_GRAPH = "models/model.json"
_PAYLOADS = {kind: f"data/{kind}/model_{kind}_config.json" for kind in ("weights", "constants")}

_NAME = re.compile(r"\w*", re.ASCII)
_PATH = re.compile(r"[\w.+-]*", re.ASCII)
_TEXT = re.compile(r"[\w ,.>-]*", re.ASCII)  # modes of operators, equations of einsum
_OPERATORS = re.compile(
    r"torch\.ops\.(aten|prims)\.(?!from_file\b|save\b)\w+\.\w+"
    r"|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond|while_loop)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|torch\.sym_(int|float|not|max|min|sum|ite)"
    r"|math\.(ceil|floor|trunc)",
    re.ASCII,
)
_REFUSED_FIELDS = frozenset({"as_operator", "as_custom_obj", "custom_obj", "class_fqn"})
_EXPRESSIONS = frozenset(
    "Symbol Integer Rational Float Add Mul Pow Max Min Mod PythonMod FloorDiv CleanDiv CeilDiv "
    "CeilToInt FloorToInt TruncToInt RoundToInt ToFloat IntTrueDiv FloatTrueDiv ModularIndexing "
    "Where Identity Eq Equality Ne Unequality Lt Le Gt Ge StrictLessThan LessThan "
    "StrictGreaterThan GreaterThan And Or Not true false".split()
)
_MAX_EXPRESSION = 2_000
_MAX_NUMBER = 2**63
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")


def check_files(folder: Path) -> None:
    """Refuse a downloaded model that leaves its folder or brings code or a pickle.

    Raises UnusableModel that names the file.
    """
    for count, path in enumerate(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        mode = path.lstat().st_mode
        if count >= MAX_FILES:
            raise UnusableModel(f"the model has more than {MAX_FILES} files")
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UnusableModel(f"{name} is neither a file nor a folder; a link may lead anywhere")
        if path.name in _CODE_NAMES or name.endswith(_CODE_SUFFIXES):
            raise UnusableModel(
                f"the model brings code or a pickle that runs when it loads: {name}; log it with "
                "serialization_format='pt2' and without code_paths, or allow code and pickles "
                f"with {PICKLE_SWITCH}=true"
            )


def file_below(folder: Path, given: object, name: str) -> Path:
    """Return `folder/given/name`, where `given` is a relative path that stays below the folder.

    Raises UnusableModel where it does not, or where there is no such file.
    """
    inner = PurePosixPath(str(given))
    if inner.is_absolute() or ".." in inner.parts:
        raise UnusableModel(f"the model's data lie outside of its folder: {str(given)!r}")
    path = folder / inner / name
    if not path.is_file():
        raise UnusableModel(
            f"the model has no {inner / name}; log it with serialization_format='pt2', or allow "
            f"pickles, which run code when they load, with {PICKLE_SWITCH}=true"
        )
    return path


def read_program(path: Path) -> Any:
    """Return the `torch.export.ExportedProgram` of a `.pt2` file.

    The file is read here and not by `torch.export.load`, which unpickles some of its parts.
    Raises UnusableModel for a file that holds more than operators and plain tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive)
            graph = _checked_graph(_json(archive, members, _GRAPH))
            tensors = {
                kind: _tensors(archive, members, kind, config) for kind, config in _PAYLOADS.items()
            }
            return _program(graph, tensors["weights"], tensors["constants"])
    except (zipfile.BadZipFile, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnusableModel(
            f"{EXPORTED} is damaged, or not of torch.export: {type(error).__name__}: {error}"
        ) from error


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    roots = set()
    for info in archive.infolist():
        root, _, name = info.filename.partition("/")
        roots.add(root)
        if len(roots) > 1 or name in members or not _MEMBERS.fullmatch(name):
            raise UnusableModel(f"{EXPORTED} holds {info.filename[:200]!r}, which is not taken")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise UnusableModel(f"{EXPORTED} holds {name} compressed; PyTorch stores as it is")
        members[name] = info
    if len(members) > MAX_FILES:
        raise UnusableModel(f"{EXPORTED} holds more than {MAX_FILES} files")
    return members


def _json(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], name: str) -> Any:
    if name not in members:
        raise UnusableModel(f"{EXPORTED} holds no {name}; export the model with torch 2.8 or newer")
    if members[name].file_size > MAX_JSON_BYTES:
        raise UnusableModel(f"{EXPORTED}: {name} has more than {MAX_JSON_BYTES} bytes")
    try:
        return json.loads(archive.read(members[name]))
    except ValueError as error:
        raise UnusableModel(f"{EXPORTED}: {name} is not JSON: {error}") from None


def _checked_graph(document: dict[str, Any]) -> dict[str, Any]:
    """Return the graph without what is executed or free text, all of the rest checked."""
    graph = document["graph_module"]
    kept = {
        "graph_module": {
            "graph": graph["graph"],
            "signature": graph["signature"],
            "module_call_graph": graph["module_call_graph"][:1],
        },
        "opset_version": document["opset_version"],
        "range_constraints": document["range_constraints"],
        "schema_version": document["schema_version"],
        "verifiers": document["verifiers"],
        "torch_version": document["torch_version"],
    }
    for nodes in _all(kept, "nodes"):
        for node in nodes:
            node["metadata"] = {}  # stack traces, and names that would be resolved
    _check(kept)
    return kept


def _all(value: Any, field: str) -> Iterator[Any]:
    """Give every value of a field, at any depth."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, dict) and field in value:
        yield value[field]
    for one in inner:
        yield from _all(one, field)


def _check(value: Any, field: str = "") -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in _REFUSED_FIELDS or not _PATH.fullmatch(key):
                raise _refused("field", key)
            _check(inner, key)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, field)
    elif isinstance(value, str) and not _CHECKS.get(field, _PATH.fullmatch)(value):
        raise _refused(field, value)


def _is_expression(text: str) -> bool:
    """Tell whether SymPy's `eval` of the text makes an expression of whole numbers and nothing else."""
    try:
        tree = ast.parse(text, mode="eval").body if len(text) <= _MAX_EXPRESSION else None
    except (SyntaxError, ValueError):
        return False
    return tree is not None and _is_call(tree)


def _is_call(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, bool) or (
            isinstance(node.value, int) and abs(node.value) <= _MAX_NUMBER
        )
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and _is_call(node.operand)
    if isinstance(node, ast.Name):
        return node.id in ("true", "false")
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return False
    name, arguments = node.func.id, node.args
    keywords = all(isinstance(one.value, ast.Constant) for one in node.keywords)
    if name not in _EXPRESSIONS or not keywords:
        return False
    if name in ("Symbol", "Float"):
        text = arguments[0].value if len(arguments) == 1 and isinstance(arguments[0], ast.Constant) else None
        return isinstance(text, str) and bool(_PATH.fullmatch(text))
    if name == "Pow":  # a division; other powers of powers would take for ever
        return len(arguments) == 2 and ast.unparse(arguments[1]) == "Integer(-1)" and _is_call(arguments[0])
    return all(map(_is_call, arguments))


def _is_tree(text: str) -> bool:
    """Tell whether the text describes nested tuples, lists and dictionaries with plain keys."""
    try:
        _, tree = json.loads(text)
    except ValueError:
        return False
    return _is_branch(tree)


def _is_branch(tree: dict[str, Any]) -> bool:
    context = json.loads(tree["context"] or "null")
    plain = context is None or (
        isinstance(context, list)
        and all(isinstance(key, str) and _PATH.fullmatch(key) for key in context)
    )
    return tree["type"] in _CONTAINERS and plain and all(map(_is_branch, tree["children_spec"]))


_CHECKS: dict[str, Callable[[str], object]] = {
    "target": _OPERATORS.fullmatch,
    "name": _NAME.fullmatch,
    "as_name": _NAME.fullmatch,
    "as_string": _TEXT.fullmatch,
    "as_strings": _TEXT.fullmatch,
    "expr_str": _is_expression,
    "in_spec": _is_tree,
    "out_spec": _is_tree,
}


def _refused(field: str, value: str) -> UnusableModel:
    return UnusableModel(
        f"{EXPORTED}: the graph's {field or 'text'} {value[:200]!r} is no operator, number or name "
        "that is taken: it could run code"
    )


def _tensors(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], kind: str, config: str
) -> dict[str, Any]:
    """Return the tensors of one kind by name; those that share a file share their memory."""
    import torch
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

    files: dict[str, Any] = {}
    tensors: dict[str, Any] = {}
    for name, payload in _json(archive, members, config)["config"].items():
        meta = payload["tensor_meta"]
        if payload["use_pickle"] or meta is None or not _PATH.fullmatch(name):
            raise UnusableModel(f"{EXPORTED} holds {kind} that are pickled: {name[:200]!r}")
        file = f"data/{kind}/{payload['path_name']}"
        if file not in files:
            files[file] = _bytes(archive, members[file])
        flat = files[file].view(_SERIALIZE_TO_TORCH_DTYPE[meta["dtype"]])
        size, stride = ([int(one["as_int"]) for one in meta[key]] for key in ("sizes", "strides"))
        try:
            tensor = torch.as_strided(flat, size, stride, int(meta["storage_offset"]["as_int"]))
        except RuntimeError as error:
            raise UnusableModel(f"{EXPORTED}: {name} does not fit its file: {error}") from None
        if payload["is_param"]:
            tensor = torch.nn.Parameter(tensor, requires_grad=bool(meta["requires_grad"]))
        tensors[name] = tensor
    return tensors


def _bytes(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
    """Return a member's content as a tensor of bytes, read without a second copy of it."""
    import torch

    content = torch.empty(info.file_size, dtype=torch.uint8)
    left = memoryview(content.numpy())
    with archive.open(info) as file:
        while count := file.readinto(left[:_COPY_BYTES]):
            left = left[count:]
    return content


def _program(graph: dict[str, Any], weights: dict[str, Any], constants: dict[str, Any]) -> Any:
    from torch._export.serde import schema
    from torch._export.serde.serialize import ExportedProgramDeserializer, _dict_to_dataclass

    try:
        return ExportedProgramDeserializer().deserialize(
            _dict_to_dataclass(schema.ExportedProgram, graph), weights, constants
        )
    except Exception as error:  # whatever PyTorch finds wrong with a graph
        lines = str(error).strip().splitlines()
        raise UnusableModel(
            f"{EXPORTED} cannot be read by this version of PyTorch: {lines[-1] if lines else error}"
        ) from error
