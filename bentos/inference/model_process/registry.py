"""The MLflow registry: which version an alias or a stage points to, and its files.

Everything here may block for as long as the network does; only background threads call it.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ABSENT = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"})
PICKLE_SWITCH = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"


class RegistryUnavailable(Exception):  # noqa: N818 - a state of the registry
    """The registry gave no answer, or none that can be understood."""


class Registry:
    """One model's entry in a registry, by alias or by old-style stage."""

    def __init__(self, *, tracking_uri: str, name: str, stage: str, timeout_seconds: float) -> None:
        self._tracking_uri = tracking_uri
        self._name = name
        self._stage = stage
        # MLflow's own defaults wait two minutes and try seven times: a check has to end sooner.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(max(1, round(timeout_seconds))))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        # MLflow allows pickles unless told otherwise, and a pickle runs code when it loads.
        os.environ.setdefault(PICKLE_SWITCH, "false")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        self._client: MlflowClient | None = None

    def resolve(self) -> str | None:
        """Return the version that the alias, else the stage, points to; None where none does.

        Raises RegistryUnavailable where the registry cannot be asked.
        """
        from mlflow.exceptions import MlflowException

        client = self._connected()
        try:
            return str(client.get_model_version_by_alias(self._name, self._stage).version)
        except MlflowException as error:
            if error.error_code not in _ABSENT:
                raise RegistryUnavailable(_first_line(error)) from error
        except Exception as error:
            raise RegistryUnavailable(_first_line(error)) from error
        try:
            quote = '"' if "'" in self._name else "'"
            filters = f"name = {quote}{self._name}{quote}"
            versions = client.search_model_versions(filters, max_results=1000)
        except Exception as error:
            raise RegistryUnavailable(_first_line(error)) from error
        staged = [
            int(version.version)
            for version in versions
            if (version.current_stage or "").lower() == self._stage.lower()
        ]
        return str(max(staged)) if staged else None

    @contextmanager
    def downloaded(self, version: str) -> Iterator[Path]:
        """Give the files of a version in a folder that is removed afterwards.

        Raises RegistryUnavailable where they cannot be had.
        """
        with tempfile.TemporaryDirectory(prefix="model-") as folder:
            self._connected()
            try:
                from mlflow.artifacts import download_artifacts

                path = download_artifacts(
                    f"models:/{self._name}/{version}",
                    dst_path=folder,
                    tracking_uri=self._tracking_uri,
                )
            except Exception as error:
                raise RegistryUnavailable(
                    f"version {version} cannot be downloaded: {_first_line(error)}"
                ) from error
            yield Path(path)

    def tags(self, version: str) -> dict[str, str]:
        """Return the tags of a version.

        Raises RegistryUnavailable where the registry cannot be asked.
        """
        try:
            return dict(self._connected().get_model_version(self._name, version).tags or {})
        except Exception as error:
            raise RegistryUnavailable(_first_line(error)) from error

    def _connected(self) -> "MlflowClient":
        if self._client is None:
            try:
                import mlflow

                mlflow.set_tracking_uri(self._tracking_uri)
                mlflow.set_registry_uri(self._tracking_uri)
                self._make_folder_of_embedded_registry()
                self._client = mlflow.MlflowClient(self._tracking_uri, self._tracking_uri)
            except Exception as error:
                raise RegistryUnavailable(_first_line(error)) from error
        return self._client

    def _make_folder_of_embedded_registry(self) -> None:
        prefix = "sqlite:///"
        if self._tracking_uri.startswith(prefix):
            Path(self._tracking_uri.removeprefix(prefix)).parent.mkdir(parents=True, exist_ok=True)


def _first_line(error: BaseException) -> str:
    text: Any = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300] if text else ''}"
