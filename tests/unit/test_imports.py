"""What the processes of a pod do not import, since each of them pays for it in memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.exported import export

ROOT = Path(__file__).parents[2]


def loaded_by(code: str, *arguments: str) -> set[str]:
    """Return the modules of a new process that has run some code."""
    program = f"import sys\n{code}\nprint(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return set(ran.stdout.split())


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("bentos.inference.service", {"bentos.inference.app", "numpy", "mlflow", "torch"}),
        ("bentos.inference.app", {"PIL", "simdjson", "mlflow", "torch"}),
        ("bentos.kit", {"torch", "mlflow", "sqlite3", "sqlite_utils", "PIL", "bentoml", "numpy"}),
        ("bentos.inference.state", {"bentos.kit", "pydantic", "numpy", "bentoml", "sqlite3"}),
    ],
)
def test_a_process_imports_only_what_it_uses(module: str, unwanted: set[str]) -> None:
    assert not loaded_by(f"import {module}") & unwanted


@pytest.mark.slow
def test_a_model_is_read_without_what_traces_and_compiles_models(tmp_path: Path) -> None:
    unwanted = {"torch._dynamo", "torch._inductor", "torch._prims", "torch._decomp.decompositions"}
    unwanted |= {"sympy", "networkx", "mlflow", "pandas.core"}
    assert not loaded_by(_READ, str(export(tmp_path / "model.pt2"))) & unwanted


@pytest.mark.slow
def test_a_registry_is_asked_without_what_mlflow_has_for_language_models() -> None:
    imported = loaded_by(_ASK)
    assert "mlflow.tracking.client" in imported
    assert not imported & {"fastapi", "mlflow.genai.judges", "mlflow.gateway.utils", "pandas.core"}


class _Primitive(torch.nn.Module):  # type: ignore[misc]
    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return torch.ops.prims.mul(numbers, numbers)


@pytest.mark.slow
def test_a_model_gets_the_operators_that_are_only_imported_where_one_calls_them(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(_Primitive(), (torch.ones(2, 3),)), str(path))
    assert "torch._prims" in loaded_by(_READ, str(path))


# In a process as a model's is.
_AS_A_MODELS = """
from bentos.inference.model.__main__ import leave_out_what_only_other_loaders_need
leave_out_what_only_other_loaders_need()
"""
# The model is called, with two inputs.
_READ = f"""{_AS_A_MODELS}
from pathlib import Path
import torch
from bentos.inference.model.loading import read_program
program = read_program(Path(sys.argv[1]))
assert len(program(torch.full([2, *program.shape], 3.0))) == 2
"""
_ASK = f"""{_AS_A_MODELS}
from bentos.inference.model.registry import Registry
Registry(tracking_uri="http://127.0.0.1:1", name="model", stage="production").connect()
"""
