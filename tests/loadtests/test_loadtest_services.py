"""The load test on both real services: every kind of request is right and what was sent is kept."""

from pathlib import Path

import pytest

from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE
from tests.loadtests.test_loadtest_gate import PASSED, PATIENT, load_test
from tests.support.models import ALIAS, COLOUR_SHAPE, COLOURS, ModelStore
from tests.support.servers import start_service

pytestmark = pytest.mark.slow


def test_both_services_pass_and_every_logged_prediction_is_stored(
    model_store: ModelStore, tmp_path: Path
) -> None:
    channels, height, width = COLOUR_SHAPE
    with (
        start_service(
            "bentos.logging.service:LoggingService",
            tmp_path,
            env={"DATABASE_PATH": str(tmp_path / "predictions.db")},
        ) as logging,
        start_service(
            "bentos.inference.service:InferenceService",
            tmp_path,
            env={
                "MLFLOW_TRACKING_URI": model_store.copy(tmp_path / "store").tracking_uri,
                "MODEL_NAME": COLOURS,
                "MODEL_STAGE": ALIAS,
            },
        ) as inference,
    ):
        logging.wait_until_ready()
        inference.wait_until_ready()
        run = load_test(
            tmp_path,
            inference.url,
            **PATIENT,
            inference_probe_url=inference.probe_url,
            logging_url=logging.url,
            logging_probe_url=logging.probe_url,
            inference_manifest="k8s/base/inference/deployment.yaml",
            input_size=str(channels * height * width),
            image_weight="1",
            predict_weight="1",
            log_weight="1",
            log_batch="7",
        )
        assert run.status == PASSED, run.output
        requests = run.verdict["requests"]
        assert set(requests) == {"POST /predict", "POST /predict_image", "POST /log"}
        assert {row["service"] for row in run.verdict["probes"]} == {
            INFERENCE_SERVICE,
            LOGGING_SERVICE,
        }
        # One batch is sent before the load, and the last one's answer may have come too late.
        batches = requests["POST /log"]["succeeded"]
        stored = logging.get("/stats").json()["total_predictions"]
        assert stored >= 7 * (batches + 1)
        assert stored % 7 == 0
