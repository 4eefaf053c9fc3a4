"""From a registered version's files to a model that answered its warm-up."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bentos.inference.model import (
    Forward,
    Labels,
    LoadedModel,
    ModelIdentity,
    UnusableModel,
    warm_up,
)
from bentos.inference.model_process.layout import put_channels_last
from bentos.inference.model_process.registry import PICKLE_SWITCH, Registry


def load(
    registry: Registry,
    identity: ModelIdentity,
    *,
    override: Labels,
    device: str,
    threads: int,
    max_batch: int,
) -> LoadedModel:
    """Download, load and warm up a version.

    `override` holds what the operator set over the model's own metadata. Raises
    RegistryUnavailable where the files cannot be had and UnusableModel where the model cannot
    be served as it is.
    """
    import torch

    torch.set_num_threads(threads)
    tags = registry.tags(identity.version)
    with registry.downloaded(identity.version) as folder:
        from mlflow.models import Model

        description = Model.load(str(folder))
        shape, dtype = _input_of(description)
        labels = _merged(override, _labels_of(description, tags))
        target = _torch_device(device)
        module = _module(folder, description, target)
        forward = _forward(module, target)
        if target == "cpu":
            put_channels_last(module, forward, input_shape=shape, dtype=dtype)
        return warm_up(
            identity,
            forward,
            input_shape=shape,
            dtype=dtype,
            labels=labels,
            max_batch=max_batch,
            release=lambda: _release(module),
        )


def _input_of(description: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    signature = description.signature
    if signature is None or signature.inputs is None or not signature.inputs.is_tensor_spec():
        raise UnusableModel(
            "the model has no tensor signature; log it with signature=infer_signature(inputs, "
            "outputs) on NumPy arrays"
        )
    inputs = signature.inputs.inputs
    if len(inputs) != 1:
        raise UnusableModel(f"the model takes {len(inputs)} inputs; one tensor can be served")
    shape = tuple(int(size) for size in inputs[0].shape[1:])
    return shape, np.dtype(inputs[0].type)


def _labels_of(description: Any, tags: dict[str, str]) -> Labels:
    metadata: dict[str, Any] = {}
    for field in ("class_names", "defect_classes", "output"):
        if field in tags:
            metadata[field] = _from_tag(tags[field])
    return Labels.from_metadata(metadata | (description.metadata or {}))


def _from_tag(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _merged(override: Labels, own: Labels) -> Labels:
    return Labels(
        class_names=override.class_names or own.class_names,
        defect_classes=override.defect_classes or own.defect_classes,
        output=override.output or own.output,
    )


def _torch_device(wanted: str) -> str:
    import torch

    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UnusableModel("DEVICE is cuda and there is no GPU; set DEVICE=cpu or auto")
    return "cuda" if wanted != "cpu" and available else "cpu"


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

    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = torch.empty(0)


def _module(folder: Path, description: Any, device: str) -> Any:
    """Return the model's module on the device, refusing what would run code when it loads."""
    import mlflow.pytorch
    import torch

    flavor = description.flavors.get("pytorch")
    if flavor is None:
        raise UnusableModel(
            f"the model's flavors are {sorted(description.flavors)}; a PyTorch model is served"
        )
    data = folder / flavor["model_data"]
    exported = data / "model.pt2"
    if not exported.exists() and not _pickle_allowed():
        raise UnusableModel(
            "the model is pickled, and a pickle runs code when it loads; log it with "
            f"serialization_format='pt2', or allow pickles with {PICKLE_SWITCH}=true"
        )
    if exported.exists() and device != "cpu":
        # MLflow refuses an exported model on another device than it was exported on.
        from torch.export.passes import move_to_device_pass

        return move_to_device_pass(torch.export.load(str(exported)), device).module()
    module = mlflow.pytorch.load_model(str(folder), map_location=device)
    return module if exported.exists() else module.to(device).eval()


def _pickle_allowed() -> bool:
    from mlflow.environment_variables import (
        MLFLOW_ALLOW_PICKLE_DESERIALIZATION,
    )

    return bool(MLFLOW_ALLOW_PICKLE_DESERIALIZATION.get())
