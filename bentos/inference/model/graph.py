"""The graph that `torch.export` writes into a model's file, made callable.

PyTorch's own reader evaluates expressions of the file, resolves its names to any callable below
`torch`, and imports SymPy and the compiler, 90 MiB of memory. None of that is needed to call one
operator after the other: an operator has to be one of PyTorch's own, and what it is given a tensor,
a number, a plain text or another such graph. Names in the file are only ever compared.
Format: torch/_export/serde/schema.py, version 8.
"""

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from bentos.inference.model.spec import UnusableModel

_OPERATORS = re.compile(
    r"torch\.ops\.(aten|prims)\.(?!from_file\b|save\b)\w+\.\w+"
    r"|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond|while_loop)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|torch\.sym_(int|float|not|max|min|sum|ite)"
    r"|math\.(ceil|floor|trunc)",
    re.ASCII,
)
# By the numbers that the format gives them.
DTYPES = dict(
    enumerate(
        (
            *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
            *(torch.float16, torch.float32, torch.float64),
            *(torch.complex32, torch.complex64, torch.complex128, torch.bool, torch.bfloat16),
        ),
        start=1,
    )
)
_MEMORY_FORMATS = (
    *(None, torch.contiguous_format, torch.channels_last, torch.channels_last_3d),
    torch.preserve_format,
)
_PLAIN = ("as_int", "as_ints", "as_bool", "as_bools", "as_string", "as_strings")
_CONSTANTS: dict[str, Callable[[Any], Any]] = {
    "as_none": lambda _: None,
    **dict.fromkeys(_PLAIN, lambda value: value),
    "as_float": float,  # infinity and NaN are texts
    "as_floats": lambda values: [float(one) for one in values],
    "as_complex": lambda value: complex(value["real"], value["imag"]),
    "as_scalar_type": DTYPES.__getitem__,
    "as_memory_format": _MEMORY_FORMATS.__getitem__,
    "as_layout": {7: torch.strided}.__getitem__,
}
_SINGLE = ("as_sym_int", "as_sym_float", "as_sym_bool", "as_optional_tensor")
_LISTS = tuple(f"{kind}s" for kind in _SINGLE)
_KEYWORD = 2
# Which field of an input's description names its tensor.
_KEYS = {
    "parameter": "parameter_name",
    "buffer": "buffer_name",
    "tensor_constant": "tensor_constant_name",
}
_FORMAT = 8
_SYMBOL = re.compile(r"(?:Symbol\(')?(\w+)(?:'.*\))?", re.ASCII)

# Where an argument is: a register, or several for a list.
_Place: TypeAlias = "int | list[_Place]"


class Program:
    """A model's graph and tensors: takes inputs [n, *shape], n at most `max_batch`, None for any.

    `batch` is the only n that it takes where it was exported for one.
    """

    def __init__(
        self, document: Mapping[str, Any], tensors: Mapping[str, Any], *, device: str
    ) -> None:
        if document["schema_version"]["major"] != _FORMAT:
            raise UnusableModel("it is of another version of PyTorch")
        graph, signature = (document["graph_module"][key] for key in ("graph", "signature"))
        self._graph = Graph(graph, device)
        self._tensors: list[Any] = []
        names = []
        for spec in signature["input_specs"]:
            ((kind, content),) = spec.items()
            names += [content["arg"]["as_tensor"]["name"]] if kind == "user_input" else []
            self._tensors.append(None if kind == "user_input" else tensors[content[_KEYS[kind]]])
        outputs = ["user_output" in spec for spec in signature["output_specs"]]
        if len(names) != 1 or sum(outputs) != 1:
            raise UnusableModel(
                f"the model was exported with {len(names)} inputs and {sum(outputs)} outputs; "
                "it may take one tensor and return one"
            )
        self._output = outputs.index(True)
        batch, *sizes = graph["tensor_values"][names[0]]["sizes"]
        self.shape = [size.get("as_int") for size in sizes]
        self.batch: int | None = batch.get("as_int")
        self.max_batch = self.batch
        if self.batch is None:
            symbol = _SYMBOL.fullmatch(batch["as_expr"]["expr_str"])
            limits = symbol and document["range_constraints"].get(symbol[1])
            if not limits:
                raise UnusableModel("the size of a batch is not a number of its own")
            self.max_batch = limits["max_val"]

    def __call__(self, inputs: Any) -> Any:
        """Return what the model returns, a tensor, for a tensor of inputs."""
        given = (inputs if tensor is None else tensor for tensor in self._tensors)
        return self._graph(*given)[self._output]

    def parameters(self) -> list[Any]:
        """Return the model's tensors, as a module's method of that name does."""
        return [tensor for tensor in self._tensors if tensor is not None]


class Graph:
    """Calls operators on registers: a graph's inputs, its constants, and what operators return.

    Raises UnusableModel where the content, of the file's JSON, has anything else in it.
    """

    def __init__(self, content: Mapping[str, Any], device: str) -> None:
        self._device = torch.device(device)
        self._registers: list[Any] = []
        self._places: dict[str, int] = {}
        self._inputs = [self._output(name) for name in names_in(content["inputs"])]
        self._steps = [self._step(node) for node in content["nodes"]]
        self._outputs = [self._places[name] for name in names_in(content["outputs"])]
        self._free_early()

    def __call__(self, *inputs: Any) -> list[Any]:
        """Return the graph's outputs."""
        registers = self._registers.copy()
        for place, value in zip(self._inputs, inputs, strict=True):
            registers[place] = value
        for step in self._steps:
            step.run(registers)
        return [registers[place] for place in self._outputs]

    def _step(self, node: Mapping[str, Any]) -> "_Step":
        positional: list[_Place] = []
        named: dict[str, _Place] = {}
        for one in node["inputs"]:
            place = self._argument(one["arg"])
            if one.get("kind") == _KEYWORD:
                named[one["name"]] = place
            else:
                positional.append(place)
        outputs = [self._output(name) for name in names_in(node["outputs"])]
        return _Step(_function(node["target"]), positional, named, outputs)

    def _argument(self, argument: Mapping[str, Any]) -> _Place:
        ((kind, value),) = argument.items()
        if kind in ("as_tensor", "as_name"):
            return self._places[value["name"] if kind == "as_tensor" else value]
        if kind == "as_tensors":
            return [self._places[one["name"]] for one in value]
        if kind in _SINGLE:
            return self._argument(value)
        if kind in _LISTS:
            return [self._argument(one) for one in value]
        if kind == "as_device":
            value = self._device
        elif kind == "as_graph":
            value = Graph(value["graph"], self._device.type)
        elif kind in _CONSTANTS:
            value = _CONSTANTS[kind](value)
        else:
            raise UnusableModel(f"the graph has an argument {kind[:200]!r}, which is not taken")
        return self._constant(value)

    def _constant(self, value: Any) -> int:
        self._registers.append(value)
        return len(self._registers) - 1

    def _output(self, name: str) -> int:
        place = self._places[name] = self._constant(None)
        return place

    def _free_early(self) -> None:
        """Let each step forget what no later one needs: all results together may be large."""
        kept = {*self._outputs}
        for step in reversed(self._steps):
            used = {*step.outputs, *_flat([*step.positional, *step.named.values()])}
            step.forgets = [place for place in used - kept if self._registers[place] is None]
            kept |= used


@dataclass(slots=True)
class _Step:
    """One call of an operator."""

    function: Callable[..., Any]
    positional: list[_Place]
    named: dict[str, _Place]
    outputs: list[int]
    forgets: Sequence[int] = ()

    def run(self, registers: list[Any]) -> None:
        values = self.function(
            *[_value(place, registers) for place in self.positional],
            **{name: _value(place, registers) for name, place in self.named.items()},
        )
        if self.outputs:  # an assertion has none
            for place, value in zip(self.outputs, _flat(values), strict=True):
                registers[place] = value
        for place in self.forgets:
            registers[place] = None


def names_in(arguments: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of values that a graph or an operator takes or returns."""
    names: list[str] = []
    for argument in arguments:
        ((kind, value),) = argument.items()
        if kind == "as_tensor":
            names.append(value["name"])
        elif kind == "as_tensors":
            names += [one["name"] for one in value]
        else:  # a number; an output that is not there has no name
            names.append("" if kind == "as_none" else value["as_name"])
    return names


def _value(place: _Place, registers: list[Any]) -> Any:
    if isinstance(place, int):
        return registers[place]
    return [_value(one, registers) for one in place]


def _flat(values: Any) -> Iterator[Any]:
    if isinstance(values, tuple | list):
        for one in values:
            yield from _flat(one)
    else:
        yield values


def _function(target: str) -> Any:
    if not _OPERATORS.fullmatch(target):
        raise _refused(target)
    module, _, name = target.rpartition(".")
    if module == "torch.ops.higher_order":
        return _HIGHER_ORDER[name]
    if module.startswith("torch.ops.prims."):
        from torch import _prims  # noqa: F401 - it makes them; few models call one
    modules = {"_operator": operator, "math": math, "torch": torch}
    if module in modules:
        found = getattr(modules[module], name)
    else:
        found = torch
        for part in target.split(".")[1:]:
            found = getattr(found, part, None)
        if not isinstance(found, torch._ops.OpOverload):
            raise _refused(target)
    return found


def _refused(target: str) -> UnusableModel:
    return UnusableModel(f"the graph calls {target[:200]!r}, which is no operator that is taken")


def _with_autocast(
    device: str, dtype: Any, enabled: bool, cached: bool, graph: Graph, *values: Any
) -> Any:
    with torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=cached):
        return graph(*values)


def _while_loop(condition: Graph, body: Graph, carried: Any, more: Sequence[Any] = ()) -> Any:
    while condition(*carried, *more)[0]:
        carried = body(*carried, *more)
    return carried


_HIGHER_ORDER: dict[str, Callable[..., Any]] = {
    # No gradient is ever recorded here.
    "wrap_with_set_grad_enabled": lambda _enabled, graph, *values: graph(*values),
    "wrap_with_autocast": _with_autocast,
    "cond": lambda condition, yes, no, values=(): (yes if condition else no)(*values),
    "while_loop": _while_loop,
}
