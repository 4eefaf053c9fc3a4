"""Model files to a PyTorch module, without running anything that the files hold.

A registered model is input from outside. Everything that a loader of MLflow or PyTorch would
execute is either refused or never read: `code` folders, pickles (`model.pth`, pickled weights,
constants and sample inputs), compiled libraries and custom objects. What stays is a graph of
PyTorch's own operators, see `bentos.inference.model.graph`, and plain tensors. What these operators
can be made to do with hostile numbers is PyTorch's own matter.
"""

import json
import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from bentos.inference.model.spec import UnusableModel

if TYPE_CHECKING:
    from bentos.inference.model.graph import Program

PICKLE_SWITCH = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"
EXPORTED = "model.pt2"
SIGNATURE = "model.sig"
# MLflow writes it beside the files that it downloads; nothing reads it here.
_NOT_SIGNED = "registered_model_meta"
MAX_FILES = 10_000
MAX_DESCRIPTION_BYTES = 4 * 1024 * 1024
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


def pickle_allowed() -> bool:
    """Tell whether the operator lets models run code when they load, by MLflow's own switch."""
    return os.environ.get(PICKLE_SWITCH, "").strip().lower() in ("true", "1")


def check_signature(folder: Path, public_key: Path) -> None:
    """Refuse a downloaded model that was not signed with the key, or altered since.

    A version is signed by OpenSSF's `model-signing` after it was registered: download its folder,
    sign it, and put the signature into it, for a logged model with
    `MlflowClient().log_model_artifact`:

        model_signing sign key FOLDER --private_key private.pem --signature FOLDER/model.sig

    See github.com/sigstore/model-transparency. Whoever holds the key decides which files are
    covered; a signature says nothing of the name that a model is registered under. Raises
    UnusableModel. The signature is taken out of the folder.
    """
    try:
        from model_signing import verifying
    except ImportError:
        raise UnusableModel(
            "MODEL_SIGNATURE_KEY is set, and signatures cannot be checked: install model-signing"
        ) from None
    if not (folder / SIGNATURE).is_file():
        raise UnusableModel(
            f"the version is not signed: it has no {SIGNATURE}, and MODEL_SIGNATURE_KEY is set"
        )
    (folder / _NOT_SIGNED).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="signature-") as elsewhere:
        signature = shutil.move(folder / SIGNATURE, elsewhere)
        try:
            config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
            config.verify(folder, Path(signature))
        except Exception as error:  # of keys, certificates, formats, digests
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UnusableModel(
                f"the version's signature does not fit its files and MODEL_SIGNATURE_KEY: "
                f"{lines[0][:500]}"
            ) from error


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


def read_description(path: Path) -> Any:
    """Return the content of an `MLmodel` file; refuse one that is far larger than it looks.

    YAML may name a value and repeat it by that name, also within a value that is repeated: a
    kilobyte then stands for gigabytes, once something prints or copies it. Raises UnusableModel.
    """
    if not path.is_file() or path.stat().st_size > MAX_DESCRIPTION_BYTES:
        raise UnusableModel("the version has no file MLmodel, or one that is far too large")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        # Of nodes a repeated one is there once; of the values that are made of them it may not be.
        node = yaml.compose(path.read_bytes(), Loader=loader)
        if _written_out(node, {}) > MAX_DESCRIPTION_BYTES:
            raise UnusableModel(
                f"the file MLmodel has more than {MAX_DESCRIPTION_BYTES} bytes once its aliases "
                "are written out"
            )
        return None if node is None else loader("").construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UnusableModel(f"the file MLmodel is no YAML: {str(error)[:300]}") from error


def _written_out(node: Any, known: dict[int, float]) -> float:
    """Return about how many bytes a node of YAML has without aliases, infinity for a circle."""
    if node is None or isinstance(node.value, str):
        return 1.0 + len(node.value) if node is not None else 0.0
    if id(node) not in known:
        known[id(node)] = float("inf")  # what a node finds that holds itself
        parts = (
            one for item in node.value for one in (item if isinstance(item, tuple) else [item])
        )
        known[id(node)] = 1.0 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]


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


def read_program(path: Path, device: str = "cpu") -> "Program":
    """Return the model of a `.pt2` file.

    The file is read here and not by `torch.export.load`, which unpickles some of its parts.
    Raises UnusableModel for a file that holds more than operators and plain tensors.
    """
    from bentos.inference.model.graph import Program

    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path.stat().st_size)
            tensors = {
                name: tensor.to(device)
                for kind in ("weights", "constants")
                for name, tensor in _tensors(archive, members, kind).items()
            }
            return Program(_json(archive, members, _GRAPH), tensors, device=device)
    except UnusableModel as error:
        raise UnusableModel(f"{EXPORTED}: {error}") from None
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
            raise UnusableModel(f"it holds {info.filename[:200]!r}, which is not taken")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise UnusableModel(f"it holds {name} compressed; PyTorch stores as it is")
        members[name] = info
    sizes = sum(info.file_size for info in members.values())
    if len(members) > MAX_FILES or sizes > file_size:
        raise UnusableModel("it holds more files, or more in them, than fit into it")
    return members


def _json(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], name: str) -> Any:
    if name not in members:
        raise UnusableModel(f"it holds no {name}; export the model with torch 2.8 or newer")
    if members[name].file_size > MAX_JSON_BYTES:
        raise UnusableModel(f"{name} has more than {MAX_JSON_BYTES} bytes")
    try:
        return json.loads(archive.read(members[name]))
    except ValueError as error:
        raise UnusableModel(f"{name} is not JSON: {error}") from None


def _tensors(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], kind: str
) -> dict[str, Any]:
    """Return the tensors of one kind by name; those that share a file share their memory."""
    import torch

    from bentos.inference.model.graph import DTYPES

    config = f"data/{kind}/model_{kind}_config.json"
    files: dict[str, Any] = {}
    tensors: dict[str, Any] = {}
    for name, payload in _json(archive, members, config)["config"].items():
        meta = payload["tensor_meta"]
        if payload["use_pickle"] or meta is None:
            raise UnusableModel(f"it holds {kind} that are pickled: {name[:200]!r}")
        file = f"data/{kind}/{payload['path_name']}"
        if file not in files:
            files[file] = _bytes(archive, members[file])
        size, stride = ([int(one["as_int"]) for one in meta[key]] for key in ("sizes", "strides"))
        offset = int(meta["storage_offset"]["as_int"])
        try:
            flat = files[file].view(DTYPES[meta["dtype"]])
            tensors[name] = torch.as_strided(flat, size, stride, offset)
        except (RuntimeError, ValueError, OverflowError) as error:
            raise UnusableModel(f"{name} does not fit its file: {error}") from None
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
