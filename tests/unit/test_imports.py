"""What the processes of a pod do not import, since each of them pays for it in memory."""

import subprocess
import sys
from pathlib import Path

import pytest

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
        ("bentos.inference.state", {"bentos.kit", "pydantic", "numpy", "bentoml", "sqlite3"}),
    ],
)
def test_a_process_imports_only_what_it_uses(module: str, unwanted: set[str]) -> None:
    assert not loaded_by(f"import {module}") & unwanted


@pytest.mark.slow
def test_a_model_is_read_without_pytorchs_compiler(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from bentos.inference.model.loading import read_program\n"
        "read_program(Path(sys.argv[1]))"
    )
    unwanted = {"torch._dynamo", "torch._inductor", "sympy", "networkx", "mlflow", "pandas"}
    path = export(tmp_path / "model.pt2")
    assert not loaded_by(code, str(path)) & unwanted
