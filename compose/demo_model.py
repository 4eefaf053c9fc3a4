"""The one-shot of compose.yaml: trains the demo model into MLflow where there is none yet."""

import os
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlencode

import httpx

from examples import train
from examples.steel_images import write_images

IMAGES_PER_CLASS = 200
MLFLOW_SECONDS = 180.0


def alias_url(mlflow: str, name: str, alias: str) -> str:
    """Return the URL at which MLflow answers 200 where a model has an alias, else 404."""
    query = urlencode({"name": name, "alias": alias})
    return f"{mlflow}/api/2.0/mlflow/registered-models/alias?{query}"


def is_registered(url: str) -> bool:
    """Return whether the alias is there, waiting for a registry that does not answer yet.

    Raises httpx.TransportError where it does not answer in time, httpx.HTTPStatusError where it
    answers with anything but 200 and 404.
    """
    deadline = time.monotonic() + MLFLOW_SECONDS
    while True:
        try:
            answer = httpx.get(url, timeout=10.0)
            break
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
    if answer.status_code == 404:
        return False
    answer.raise_for_status()
    return True


def main() -> int:
    """Train and register where there is no model; return the exit status."""
    mlflow, name, alias = (
        os.environ[variable] for variable in ("MLFLOW_TRACKING_URI", "MODEL_NAME", "MODEL_STAGE")
    )
    try:
        if is_registered(alias_url(mlflow, name, alias)):
            print(f"{mlflow} has {name}@{alias}; nothing to train", flush=True)
            return 0
    except httpx.HTTPError as error:
        print(f"error: {mlflow} cannot be asked for {name}@{alias}: {error}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        files = write_images(Path(folder), per_class=IMAGES_PER_CLASS, seed=0)
        print(f"drew {len(files)} images; training takes half a minute or so", flush=True)
        options = ["--data", folder, "--name", name, "--alias", alias, "--tracking-uri", mlflow]
        return train.main(options)


if __name__ == "__main__":
    sys.exit(main())
