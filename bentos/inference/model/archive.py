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
import os
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
_SYMBOL = re.compile(r"[a-z]{1,8}\d{1,6}", re.ASCII)  # PyTorch counts up to some of their numbers
_REFUSED_FIELDS = frozenset({"as_operator", "as_custom_obj", "custom_obj", "class_fqn"})
_EXPRESSIONS = re.compile(
    "Integer|Rational|Add|Mul|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|CeilToInt"
    "|FloorToInt|TruncToInt|RoundToInt|ToFloat|IntTrueDiv|FloatTrueDiv|ModularIndexing|Where"
    "|Identity|Eq|Equality|Ne|Unequality|Lt|Le|Gt|Ge|StrictLessThan|LessThan|StrictGreaterThan"
    "|GreaterThan|And|Or|Not"
)
_MAX_EXPRESSION = 2_000
_MAX_NUMBER = 2**63
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")


def pickle_allowed() -> bool:
    """Tell whether the operator lets models run code when they load, by MLflow's own switch."""
    return os.environ.get(PICKLE_SWITCH, "").strip().lower() in ("true", "1")


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
    from torch._export.serde import schema
    from torch._export.serde.serialize import ExportedProgramDeserializer, _dict_to_dataclass

    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path.stat().st_size)
            graph = _checked_graph(_json(archive, members, _GRAPH))
            weights, constants = (
                _tensors(archive, members, kind, config) for kind, config in _PAYLOADS.items()
            )
        return ExportedProgramDeserializer().deserialize(
            _dict_to_dataclass(schema.ExportedProgram, graph), weights, constants
        )
    except UnusableModel:
        raise
    except Exception as error:  # whatever is wrong with a file that somebody made
        lines = str(error).strip().splitlines() or [""]
        raise UnusableModel(
            f"{EXPORTED} is damaged, or of another version of PyTorch: "
            f"{type(error).__name__}: {lines[-1][:300]}"
        ) from error


def _members(archive: zipfile.ZipFile, file_size: int) -> dict[str, zipfile.ZipInfo]:
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
    sizes = sum(info.file_size for info in members.values())
    if len(members) > MAX_FILES or sizes > file_size:
        raise UnusableModel(f"{EXPORTED} holds more files, or more in them, than fit into it")
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
    for name in kept["range_constraints"]:
        if not _SYMBOL.fullmatch(name):
            raise _refused("symbol", name)
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


def _is_operator(target: str) -> bool:
    if not _OPERATORS.fullmatch(target):
        return False
    if not target.startswith("torch.ops."):
        return True
    import torch

    found: Any = torch
    for name in target.split(".")[1:]:
        found = getattr(found, name, None)
    return isinstance(found, torch._ops.OpOverload | torch._ops.HigherOrderOperator)


def _is_expression(text: str) -> bool:
    """Tell whether SymPy's `eval` makes a formula of whole numbers of the text, nothing else."""
    if len(text) > _MAX_EXPRESSION:
        return False
    try:
        return _is_formula(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError):
        return False


def _is_formula(node: ast.expr) -> bool:  # noqa: PLR0911 - one for each kind of node
    match node:
        case ast.Constant(value=bool()) | ast.Name(id="true" | "false"):
            return True
        case ast.Constant(value=int(number)):
            return abs(number) <= _MAX_NUMBER
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _is_formula(operand)
        case ast.Call(
            func=ast.Name(id="Symbol" | "Float"),
            args=[ast.Constant(value=str(text))],
            keywords=named,
        ):
            return bool(_PATH.fullmatch(text)) and all(
                isinstance(one.value, ast.Constant) for one in named
            )
        case ast.Call(func=ast.Name(id="Pow"), args=[base, exponent], keywords=[]):
            # A division; powers of powers could take for ever.
            return ast.unparse(exponent) == "Integer(-1)" and _is_formula(base)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return bool(_EXPRESSIONS.fullmatch(name)) and all(map(_is_formula, arguments))
    return False


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
    "target": _is_operator,
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
        size, stride = ([int(one["as_int"]) for one in meta[key]] for key in ("sizes", "strides"))
        offset = int(meta["storage_offset"]["as_int"])
        try:
            flat = files[file].view(_SERIALIZE_TO_TORCH_DTYPE[meta["dtype"]])
            tensor = torch.as_strided(flat, size, stride, offset)
        except (RuntimeError, ValueError, OverflowError) as error:
            raise UnusableModel(f"{EXPORTED}: {name} does not fit its file: {error}") from None
        if payload["is_param"]:
            tensor = torch.nn.Parameter(tensor, requires_grad=bool(meta["requires_grad"]))
        tensors[name] = tensor
    return tensors


def _bytes(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
    """Return a member's content as a tensor of bytes, read piece by piece."""
    import torch

    content = torch.empty(info.file_size, dtype=torch.uint8)
    left = memoryview(content.numpy())
    with archive.open(info) as file:
        while part := file.read(_COPY_BYTES):
            left[: len(part)] = part
            left = left[len(part) :]
    return content
