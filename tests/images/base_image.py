"""A base image made without a registry: Debian's own Python by debootstrap, kept between runs.

The services' default base is `python:3.11-slim-bookworm`; this one is as bare.
"""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

SUITE = "bookworm"
PACKAGES = ("python3.11", "python3.11-venv", "python3-pip", "ca-certificates")
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
# As in the images of Docker Hub, `python` is there and pip installs where it is told to.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "SSL_CERT_FILE": str(CA_BUNDLE),
}
_REMOVED = (
    "usr/lib/python3.11/EXTERNALLY-MANAGED",
    "usr/share/doc/*",
    "usr/share/locale/*",
    "usr/share/man/*",
    "var/cache/apt/*",
    "var/lib/apt/lists/*",
    "var/log/*",
)


def base_archive() -> Path:
    """Return an archive of the base's root file system, making it where it is missing."""
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "truthful-serving"
    archive = cache / f"base-image-{SUITE}-{recipe}.tar"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="base-image-") as folder:
            root = Path(folder) / "root"
            _bootstrap(root)
            # Two runs may make it at once: each finishes its own and the last name stands.
            partial = Path(tempfile.mkdtemp(dir=cache)) / archive.name
            try:
                with tarfile.open(partial, "w") as tar:
                    tar.add(root, arcname=".")
                partial.rename(archive)
            finally:
                shutil.rmtree(partial.parent)
    return archive


def _bootstrap(root: Path) -> None:
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    finished = subprocess.run(
        [*command, SUITE, str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout[-3_000:]
    for pattern in _REMOVED:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (root / "usr/bin/python").symlink_to("python3.11")
