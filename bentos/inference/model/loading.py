"""From a registered version's files to a model that answered its warm-up."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bentos.inference.images import warm_up_decoding
from bentos.inference.model.archive import (
    EXPORTED,
    check_files,
    check_signature,
    file_below,
    pickle_allowed,
    read_description,
    read_program,
)
from bentos.inference.model.memory import check_fits
from bentos.inference.model.registry import Registry
from bentos.inference.model.spec import Metadata, ModelIdentity, UnusableModel
from bentos.inference.model.warm_up import Forward, LoadedModel, put_channels_last, warm_up

_MAX_BATCH = 4_096


@dataclass(frozen=True)
class LoadOptions:
    """How versions are loaded; `overrides` are metadata that the operator sets over the model's.

    With a `signature_key` only versions that were signed with it are, and tags say nothing.
    """

    device: str = "cpu"
    threads: int = 1
    max_batch: int = 16
    overrides: Mapping[str, Any] = field(default_factory=dict)
    signature_key: Path | None = None


class _Tensor(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]


class _Input(msgspec.Struct):
    spec: _Tensor | None = msgspec.field(name="tensor-spec", default=None)


class _Signature(msgspec.Struct):
    inputs: str | None = None  # JSON


class _Description(msgspec.Struct):
    flavors: dict[str, dict[str, Any]]
    signature: _Signature | None = None
    metadata: dict[str, Any] | None = None


def load(registry: Registry, identity: ModelIdentity, options: LoadOptions) -> LoadedModel:
    """Download, check, load and warm up a version.

    Raises RegistryUnavailable where the files cannot be had and UnusableModel where the model
    cannot be served as it is.
    """
    import torch

    torch.set_num_threads(options.threads)
    # Tags are no part of what is signed, and could call a defect normal.
    tags = {} if options.signature_key else registry.tags(identity.version)
    with registry.downloaded(identity.version) as folder:
        if options.signature_key:
            check_signature(folder, options.signature_key)
        if not pickle_allowed():
            check_files(folder)
        description = _description(folder)
        flavor = description.flavors.get("pytorch")
        if flavor is None:
            raise UnusableModel(
                f"the model's flavors are {sorted(description.flavors)}; a PyTorch model is served"
            )
        shape, dtype = _input_of(description)
        metadata = Metadata.read(_from_tags(tags), description.metadata or {}, options.overrides)
        device = _torch_device(options.device)
        module, batch = _module(folder, flavor.get("model_data"), device, shape)
        forward = _forward(module, device)
        if device == "cpu":
            put_channels_last(module, forward, input_shape=shape, dtype=dtype)
        model = warm_up(
            identity,
            forward,
            input_shape=shape,
            dtype=dtype,
            metadata=metadata,
            max_batch=min(options.max_batch, batch),
            release=lambda: _release(module),
        )
        picture = warm_up_decoding(model.spec)
        if picture is not None:
            model.forward(picture[np.newaxis])
        return model


def _description(folder: Path) -> _Description:
    """Read the file MLmodel (mlflow.org, MLflow models, storage format) without MLflow's models.

    Those bring pandas into the process, 40 MiB.
    """
    try:
        return msgspec.convert(read_description(folder / "MLmodel"), _Description)
    except msgspec.ValidationError as error:
        raise UnusableModel(f"the model's description MLmodel cannot be read: {error}") from None


def _input_of(description: _Description) -> tuple[tuple[int, ...], str]:
    inputs = description.signature.inputs if description.signature else None
    specs = [one.spec for one in msgspec.json.decode(inputs or "[]", type=list[_Input])]
    if not specs or None in specs:
        raise UnusableModel(
            "the model has no tensor signature; log it with signature=infer_signature(inputs, "
            "outputs) on NumPy arrays"
        )
    if len(specs) != 1 or specs[0] is None:
        raise UnusableModel(f"the model takes {len(specs)} inputs; one tensor can be served")
    return specs[0].shape[1:], np.dtype(specs[0].dtype).name


def _from_tags(tags: Mapping[str, str]) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for name in Metadata.__struct_fields__:
        if name in tags:
            try:
                metadata[name] = json.loads(tags[name])
            except ValueError:
                metadata[name] = tags[name]
    return metadata


def _torch_device(wanted: str) -> str:
    import torch

    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UnusableModel("DEVICE is cuda and there is no GPU; set DEVICE=cpu or auto")
    return "cuda" if wanted != "cpu" and available else "cpu"


def _module(folder: Path, data: object, device: str, shape: tuple[int, ...]) -> tuple[Any, int]:
    """Return the model's module on the device and its largest batch; nothing in the files runs.

    Only where the operator allows pickles do MLflow's and PyTorch's own loaders read them.
    """
    if pickle_allowed():
        check_fits(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
        return _run_by_its_own_loader(folder, data, device), _MAX_BATCH
    path = file_below(folder, data, EXPORTED)
    check_fits(path.stat().st_size)
    program = read_program(path, device)
    if min(shape, default=0) > 0 and program.shape != list(shape):
        raise UnusableModel(
            f"the model was exported for inputs of shape {program.shape}, its signature says "
            f"{list(shape)}; log it with the signature of what it was exported with"
        )
    if program.batch not in (None, 1):
        raise UnusableModel(
            f"the model was exported for batches of {program.batch}; export it with a dynamic batch"
        )
    return program, min(program.max_batch or _MAX_BATCH, _MAX_BATCH)


def _run_by_its_own_loader(folder: Path, data: object, device: str) -> Any:
    import torch

    path = folder / str(data) / EXPORTED
    if not path.exists():
        import mlflow.pytorch

        return mlflow.pytorch.load_model(str(folder), map_location=device).to(device).eval()
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(torch.export.load(str(path)), device).module()


def _forward(module: Any, device: str) -> Forward:
    import torch

    def forward(inputs: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            outputs = module(torch.from_numpy(inputs).to(device))
            if not isinstance(outputs, torch.Tensor):
                raise UnusableModel(f"the model returns {type(outputs).__name__}, not a tensor")
            result: NDArray[np.float32] = outputs.float().cpu().numpy()
            return result

    return forward


def _release(module: Any) -> None:
    """Free a module's tensors: it lies on the frozen heap, where no collection finds it."""
    import torch

    buffers = module.buffers() if hasattr(module, "buffers") else ()
    for tensor in (*module.parameters(), *buffers):
        tensor.data = torch.empty(0)
