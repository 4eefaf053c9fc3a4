"""What a service's OCI image is made of: BentoML's own image options, set once for all services.

The requirements stand in each service's bentofile, and the environment too: an image needs
them, a service that is served from the checkout does not.
"""

import os
from collections.abc import Sequence

from bentoml.images import Image

BASE_IMAGE_VARIABLE = "BASE_IMAGE"
DEFAULT_BASE_IMAGE = "python:3.11-slim-bookworm"
TORCH_WHEELS_VARIABLE = "TORCH_WHEELS"
DEFAULT_TORCH_WHEELS = "https://download.pytorch.org/whl/cpu/torch/"

# BentoML would take the newest.
_UV = "uv==0.13.9"
_UV_FOLDER = "/opt/uv"
# Programs of torch's own tests, and headers to compile extensions with: 190 MB. The tests of other
# packages are as much again with their bytecode.
_UNUSED_FILES = (
    *("torch/test", "torch/include", "torch/bin/protoc*", "torch/bin/*Test", "torch/bin/test_*"),
)
_TESTED_PACKAGES = ("mpmath", "networkx", "numpy", "pandas", "sympy")


def service_image(
    *, ports: Sequence[int] = (), writable: Sequence[str] = (), find_links: str = ""
) -> Image:
    """Return an image of Python, the locked packages and the service, and nothing to build with.

    `ports` are those that it says it listens on, beside BentoML's own two, 3000 and 3001.
    `writable` are directories for volumes; one that is made there takes over that the image's
    user and group 0, the group of an arbitrary user, may write. `find_links` is a page or a
    directory of wheels that are looked at beside the package index.
    """
    image = Image(
        base_image=os.environ.get(BASE_IMAGE_VARIABLE) or DEFAULT_BASE_IMAGE,
        # Every other choice installs a compiler, git and gnupg: 700 MB that nothing here uses.
        distro="none",
        python_version="3.11",
        lock_python_packages=False,
    )
    # Some bases make homes that only their owner may enter, and the service lies in one.
    image.run('chmod a+rx "/home/$BENTO_USER"')
    for directory in writable:
        image.run(f'install -d -o "$BENTO_USER_UID" -g 0 -m 0775 {directory}')
    image.run(_slim_uv())
    if ports:
        # BentoML has no option for it; a command goes into the Dockerfile as it is.
        image.run(f"true\nEXPOSE {' '.join(map(str, ports))}")
    if find_links:
        image.python_packages(f"--find-links {find_links}")
    return image


def _slim_uv() -> str:
    """Return the command that makes `uv` a program which leaves nothing behind that is not used.

    Each command of an image is a layer, and a file that a later one deletes still counts. BentoML
    installs the packages in a layer of its own, so what it calls there has to clear up itself.
    """
    packages = "/app/.venv/lib/python3*/site-packages"
    unused = " ".join(f"{packages}/{path}" for path in _UNUSED_FILES)
    tested = " ".join(f"{packages}/{package}" for package in _TESTED_PACKAGES)
    script = (
        "#!/bin/sh -e",
        # The base's Python: the environment that is being made has no pip.
        f"PYTHON -m pip install --quiet --no-cache-dir --target {_UV_FOLDER} {_UV}",
        f'{_UV_FOLDER}/bin/uv "$@"',
        f"rm -rf {_UV_FOLDER} {unused}",
        f"find {tested} -type d -name tests -prune -exec rm -rf {{}} + 2>/dev/null || true",
    )
    lines = " ".join(f"'{line}'" for line in script)
    path = "/usr/local/bin/uv"
    return (
        f"printf '%s\\n' {lines} | sed s,PYTHON,$(command -v python), > {path} && chmod +x {path}"
    )


def torch_wheels() -> str:
    """Return where CPU wheels of torch are, empty where the package index's own are wanted.

    The package index carries torch for Linux with several GB of CUDA libraries.
    """
    return os.environ.get(TORCH_WHEELS_VARIABLE, DEFAULT_TORCH_WHEELS)
