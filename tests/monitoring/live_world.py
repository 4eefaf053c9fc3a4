"""Both services, driven without a pause, and a real Prometheus that scrapes them every second."""

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import yaml

from bentos.health.probes import HEALTH_PATH, METRICS_PATH, READY_PATH
from bentos.inference.state import EXPLAIN_PATH, PREDICT_IMAGE_PATH, PREDICT_PATH
from bentos.logging.state import EVIDENCE_PATH, LABELS_PATH, LOG_PATH, STATS_PATH
from examples.steel_images import write_images
from local.process import Servers
from monitoring.grafana.render.client import Prometheus
from monitoring.stack import prometheus_program
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE
from tests.monitoring.cluster_exposition import kube_state_metrics, kubelet
from tests.monitoring.live_alerts import write_shortened_rules
from tests.support.evidence import evidence
from tests.support.models import point_alias, remove_alias
from tests.support.repeating import repeating
from tests.support.servers import ROOT, Server, free_port, start_service, wait_until

INFERENCE = "bentos.inference.service:InferenceService"
LOGGING = "bentos.logging.service:LoggingService"
MODEL = "steel-defects"
SCRAPE_SECONDS = 1


@dataclass(frozen=True)
class DemoModel:
    """The demo model in an embedded registry, and images to ask it about."""

    tracking_uri: str
    images: Sequence[Path]


@dataclass(frozen=True)
class World:
    """What runs; `prometheus` is its URL."""

    inference: Server
    logging: Server
    prometheus: str


def train_demo_model(directory: Path, *, per_class: int = 12, epochs: int = 3) -> DemoModel:
    """Draw a few images, train on them and register the model, as `make demo` does."""
    images = write_images(directory / "images", per_class=per_class, seed=0)
    tracking_uri = f"sqlite:///{directory / 'mlflow.db'}"
    command = [sys.executable, "-m", "examples.train", "--data", str(directory / "images")]
    command += ["--name", MODEL, "--tracking-uri", tracking_uri, "--epochs", str(epochs)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return DemoModel(tracking_uri, images)


class Driver:
    """Sends requests to both services, good and bad ones, one round after the other."""

    def __init__(self, inference: Server, logging: Server, images: Sequence[Path]) -> None:
        self._inference, self._logging = inference, logging
        self._images = itertools.cycle([path.read_bytes() for path in images])
        self._numbers = itertools.count()
        self._http = httpx.Client(trust_env=False, timeout=10.0)

    def drive(self) -> None:
        """Send a picture, and now and then everything else."""
        number, image = next(self._numbers), next(self._images)
        with suppress(httpx.TransportError):  # a service that is being started or stopped
            # A connection stays with its worker, and only one worker has the challenger.
            answer = self._http.post(
                self._inference.url + PREDICT_IMAGE_PATH,
                content=image,
                headers={"Connection": "close"},
            )
            if number % 5 == 0:
                self._ask_the_rest(self._http)
            if number % 25 == 0 and answer.status_code == httpx.codes.OK:
                self._http.post(self._inference.url + EXPLAIN_PATH, content=image)
                self._review(self._http)

    def _ask_the_rest(self, http: httpx.Client) -> None:
        http.post(self._inference.url + PREDICT_PATH, json={"data": [0.5]})
        http.post(self._logging.url + LOG_PATH, json={"predictions": "none"})
        http.get(self._logging.url + STATS_PATH)
        for service in (self._inference, self._logging):
            for path in (HEALTH_PATH, READY_PATH):
                http.get(service.url + path)
                http.get(service.probe_url + path)

    def _review(self, http: httpx.Client) -> None:
        """Send pictures with each verdict, and labels that agree with some of them."""
        kept = [
            evidence(
                verdict=verdict, class_name=said, sample_probability=1.0, timestamp=time.time()
            )
            for verdict, said in (("pass", "normal"), ("fail", "crack"), ("review", "crack"))
            for _ in range(2)
        ]
        labels = [
            {
                "prediction_id": one.prediction_id,
                "edge_device_id": one.edge_device_id,
                "true_class": ("normal", "crack")[number % 2],
                "labelled_by": "driver",
            }
            for number, one in enumerate(kept)
        ]
        pictures = msgspec.json.encode({"evidence": kept})
        http.post(self._logging.url + EVIDENCE_PATH, content=pictures)
        http.post(self._logging.url + LABELS_PATH, json={"labels": labels})


@contextmanager
def live_world(directory: Path, model: DemoModel, *, workers: int) -> Iterator[World]:
    """Start everything, driven from before the model is loaded; yield once both are ready."""
    with ExitStack() as stack:
        logging = stack.enter_context(
            start_service(
                LOGGING,
                directory,
                env={"DATABASE_PATH": str(directory / "predictions.db"), "WORKERS": str(workers)},
            )
        )
        probe_port = free_port()
        exporters = {
            "kube-state-metrics": stack.enter_context(kube_state_metrics()).address,
            "kubelet": stack.enter_context(kubelet()).address,
        }
        targets = {
            INFERENCE_SERVICE: f"127.0.0.1:{probe_port}",
            LOGGING_SERVICE: logging.probe_url.removeprefix("http://"),
        }
        scraper = stack.enter_context(prometheus(directory, {**targets, **exporters}))
        remove_alias(model.tracking_uri, MODEL)
        inference = stack.enter_context(
            start_service(
                INFERENCE,
                directory,
                env={
                    "PROBE_PORT": str(probe_port),
                    "MLFLOW_TRACKING_URI": model.tracking_uri,
                    "MODEL_NAME": MODEL,
                    "MODEL_POLL_SECONDS": "1",
                    "LOGGING_URL": logging.url,
                    "OUTBOX_PATH": str(directory / "outbox"),
                    "WORKERS": str(workers),
                    "SHADOW_STAGE": "1",
                    "SHADOW_SHARE": "1",
                    "EXPLAIN": "true",
                },
            )
        )
        stack.enter_context(repeating(Driver(inference, logging, model.images).drive))
        # Not ready for some scrapes, however fast the machine loads a model.
        unready = (
            f'rate(probe_duration_seconds_count{{job="{INFERENCE_SERVICE}",status="503"}}[5s])'
        )
        asked = Prometheus(scraper)
        wait_until(
            lambda: any(one.values[-1] > 0 for one in asked.instant(unready, time.time())),
            "a rate of unready answers",
        )
        point_alias(model.tracking_uri, MODEL, "1")
        for service in (logging, inference):
            service.wait_until_ready()
        yield World(inference, logging, scraper)


@contextmanager
def prometheus(directory: Path, targets: dict[str, str], *, rules: bool = False) -> Iterator[str]:
    """Start a Prometheus that scrapes the targets, by job; yield its URL.

    With `rules` it evaluates the shipped ones every second, with their times shortened.
    """
    config: dict[str, Any] = {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s"},
        "scrape_configs": [
            {
                "job_name": job,
                "metrics_path": METRICS_PATH,
                "honor_labels": True,
                "static_configs": [{"targets": [address]}],
            }
            for job, address in targets.items()
        ],
    }
    if rules:
        config["global"]["evaluation_interval"] = "1s"
        config["rule_files"] = [str(write_shortened_rules(directory / "rules") / "*.yml")]
    path = directory / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    program = prometheus_program(path, directory / "series", free_port())
    with Servers(directory) as running:
        running.start(program)
        running.wait_until_ready()
        yield program.url
