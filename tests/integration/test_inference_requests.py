"""Requests to the inference service as it is deployed: predictions, bad input, metrics, pages."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from local import fetch
from tests.support.images import black_png, colour_file, form_of, noise_file
from tests.support.inference import channel, metric, predict, ready, start_inference
from tests.support.models import ALIAS, COLOUR_CLASSES, COLOUR_DEFECTS, COLOURS, ModelStore
from tests.support.servers import Server

COLOUR_OF_CLASS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
SIZE = len(channel(0))
MEGABYTE = 1_000_000
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "multipart/form-data; boundary=frontier"}


@pytest.fixture(scope="module")
def server(model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("requests")
    store = model_store.copy(directory)
    env = {"MAX_IMAGE_PIXELS": "1000000"}
    with start_inference(directory, store.tracking_uri, env=env) as running:
        running.wait_until_ready()
        yield running


def check_answer(response: httpx.Response, index: int) -> None:
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["class"] == index
    assert answer["class_name"] == COLOUR_CLASSES[index]
    assert answer["defect_detected"] is (COLOUR_CLASSES[index] in COLOUR_DEFECTS)
    assert answer["verdict"] == ("fail" if answer["defect_detected"] else "pass")
    assert 0.9 < answer["confidence"] <= 1
    assert answer["model_version"] == "1"
    assert answer["inference_time_ms"] > 0
    assert len(answer["prediction_id"]) == 32


@pytest.mark.parametrize("index", range(3))
def test_predict_answers_for_a_flat_list(server: Server, index: int) -> None:
    check_answer(predict(server, channel(index)), index)


@pytest.mark.parametrize("index", range(3))
def test_predict_answers_for_raw_float32(server: Server, index: int) -> None:
    body = np.array(channel(index), "<f4").tobytes()
    headers = {"Content-Type": "application/octet-stream"}
    check_answer(server.post("/predict", content=body, headers=headers), index)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP"])
@pytest.mark.parametrize("index", range(3))
def test_predict_image_answers_for_a_file_in_a_form_and_as_the_body(
    server: Server, index: int, form: str
) -> None:
    content = colour_file(COLOUR_OF_CLASS[index], size=(200, 150), form=form)
    check_answer(server.post("/predict_image", files={"image": ("a b.png", content)}), index)
    headers = {"Content-Type": f"image/{form.lower()}"}
    check_answer(server.post("/predict_image", content=content, headers=headers), index)


def test_ready_tells_what_the_contract_promises(server: Server) -> None:
    predict(server, channel(0))
    content = ready(server)
    assert content["status"] == "ready"
    assert content["model_loaded"] is True
    assert content["mlflow_accessible"] is True
    assert content["predictions_served"] > 0
    assert content["errors"] == 0
    assert content["last_prediction"].endswith("+00:00")
    assert content["timestamp"].endswith("+00:00")
    assert content["model"] == {"name": COLOURS, "stage": ALIAS, "version": "1"}
    assert content["load"]["phase"] == "loaded"


def test_health_tells_what_the_contract_promises(server: Server) -> None:
    content = server.get("/health").json()
    assert content["status"] == "healthy"
    assert content["service"] == "inference-service"
    assert content["timestamp"].endswith("+00:00")
    assert content["uptime_seconds"] > 0
    assert server.http.head("/health").status_code == 200


def body_of(data: object) -> bytes:
    return json.dumps({"data": data}).encode()


BAD_PREDICT = {
    "too short": (body_of([1.0] * (SIZE - 1)), 400, "data"),
    "nested": (body_of([[[1.0] * SIZE]]), 400, "data[0]"),
    "NaN": (body_of([float("nan")] * SIZE), 400, "data[0]: expected a flat array"),
    "beyond float32": (body_of([1e39] * SIZE), 400, "data[0]"),
    "overflowing the model": (body_of([3e38] * SIZE), 422, "the model fails"),
    "empty": (b"", 400, "body"),
    "no JSON": (b"this is no JSON", 400, "JSON"),
    "deeply nested lists": (b"[" * 60_000, 400, "JSON"),
    "more than an input takes": (b" " * MEGABYTE, 413, "bytes"),
}


def check_refused(response: httpx.Response, status: int, told: str) -> None:
    assert response.status_code == status, response.text
    content = response.json()
    assert set(content) <= {"error", "reason", "field"}
    reasons = ("bad_input", "too_large", "not_found", "model_rejected_input")
    assert content["reason"] in reasons
    assert told in content["error"]
    assert "Traceback" not in response.text


# What else is wrong with numbers, pictures and forms: tests/unit/test_request.py, test_images.py.
@pytest.mark.parametrize("name", BAD_PREDICT)
def test_bad_input_to_predict_is_refused_with_what_was_expected(server: Server, name: str) -> None:
    body, status, told = BAD_PREDICT[name]
    check_refused(server.post("/predict", content=body, headers=JSON), status, told)
    assert server.get("/ready").status_code == 200


def test_raw_bodies_of_the_wrong_length_and_with_nan_are_refused(server: Server) -> None:
    headers = {"Content-Type": "application/octet-stream"}
    check_refused(server.post("/predict", content=b"123", headers=headers), 400, "body")
    nan = np.full(SIZE, np.nan, "<f4").tobytes()
    check_refused(server.post("/predict", content=nan, headers=headers), 400, "data[0]")


BAD_IMAGES = {
    "a text": (b"this is no image", 400, "PNG, JPEG, BMP"),
    "a truncated PNG": (noise_file()[:-2_000], 400, "cut short in its chunk"),
    "a bomb": (black_png(5_000, 5_000), 413, "MAX_IMAGE_PIXELS"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_what_is_no_good_image_is_refused_with_what_was_expected(server: Server, name: str) -> None:
    content, status, told = BAD_IMAGES[name]
    headers = {"Content-Type": "image/png"}
    check_refused(server.post("/predict_image", content=content, headers=headers), status, told)
    check_refused(server.post("/predict_image", files={"image": ("a", content)}), status, told)
    assert server.get("/ready").status_code == 200


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "multipart/form-data"}, b"x"),
        (FORM, b"no form"),
        (FORM, form_of([("form-data; name=image", b"x")] * 2)),
        (FORM, form_of([("form-data; name=x", b"")] * 10_000)),
    ],
)
def test_forms_that_cannot_be_read_are_refused(
    server: Server, headers: dict[str, str], body: bytes
) -> None:
    check_refused(server.post("/predict_image", content=body, headers=headers), 400, "")


@pytest.mark.parametrize("path", ["/predict", "/predict_image"])
def test_a_body_of_a_hundred_megabytes_is_refused(server: Server, path: str) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b"1" * MEGABYTE

    check_refused(server.post(path, content=b"1" * 100 * MEGABYTE), 413, "MAX_BODY_BYTES")
    check_refused(server.post(path, content=chunks()), 413, "MAX_BODY_BYTES")
    check_answer(predict(server, channel(0)), 0)


def test_an_image_sent_to_predict_is_told_where_to_go(server: Server) -> None:
    headers = {"Content-Type": "image/png"}
    response = server.post("/predict", content=colour_file((1, 2, 3)), headers=headers)
    check_refused(response, 415, "/predict_image")


def test_client_nonsense_never_makes_the_service_unready(server: Server) -> None:
    before = metric(server, "inference_rejected_total")
    for index in range(120):
        body = (b"nonsense", body_of([3e38] * SIZE), body_of([1.0]))[index % 3]
        status = (400, 422, 400)[index % 3]
        assert server.post("/predict", content=body, headers=JSON).status_code == status
    content = ready(server)
    assert content["status"] == "ready"
    assert content["errors"] == 0
    assert metric(server, "inference_rejected_total") == before + 120
    assert metric(server, "inference_error_ratio") == 0


def test_metrics_move_with_requests(server: Server) -> None:
    names = (
        "inference_predictions_total",
        "inference_prediction_duration_seconds_count",
        "inference_confidence_count",
        "inference_verdicts_total",
        "inference_batch_size_sum",
    )
    before = {name: metric(server, name, model=COLOURS, stage=ALIAS) for name in names}
    stained = metric(server, "inference_confidence_count", class_name="stain")
    for _ in range(5):
        check_answer(predict(server, channel(2)), 2)
    after = {name: metric(server, name, model=COLOURS, stage=ALIAS) for name in names}
    assert after == {name: value + 5 for name, value in before.items()}
    assert metric(server, "inference_confidence_count", class_name="stain") == stained + 5
    assert ready(server)["predictions_served"] == after["inference_predictions_total"]
    assert metric(server, "inference_model_info", version="1") == 1
    assert metric(server, "inference_model_loaded") == 1
    assert metric(server, "inference_mlflow_accessible") == 1


def test_what_is_bentomls_own_is_still_there(server: Server) -> None:
    for path in ("/", "/docs.json", "/schema.json", "/livez", "/readyz", "/healthz"):
        assert server.get(path).status_code == 200, path
    assert server.get("/static_content/swagger-ui.css").status_code == 200


@pytest.mark.case(68)
def test_what_bentoml_itself_refuses_has_the_one_shape_of_errors(server: Server) -> None:
    """`GET /static_content/../../etc/passwd` and a POST there: 404 and 405, with a reason."""
    for path in ("/static_content/nothing.js", "/static_content/%2e%2e/%2e%2e/etc/passwd"):
        answer = server.get(path)
        assert (answer.status_code, answer.json()["reason"]) == (404, "not_found")
    answer = server.post("/static_content/swagger-ui.css", content=b"x")
    assert (answer.status_code, answer.json()["reason"]) == (405, "method_not_allowed")


def events_of(server: Server, **fields: object) -> list[dict[str, Any]]:
    return [line for line in server.events("request") if fields.items() <= line.items()]


def test_requests_are_logged_with_their_id_and_probes_are_not(server: Server) -> None:
    headers = {"X-Request-ID": "trace-me-1"}
    good = predict(server, channel(1), headers=headers)
    assert good.headers["X-Request-ID"] == "trace-me-1"
    server.post("/predict", content=b"bad", headers=JSON | {"X-Request-ID": "trace-me-2"})
    server.get("/ready")
    server.wait_until(lambda: events_of(server, request_id="trace-me-2"), "both are logged")
    (line,) = events_of(server, request_id="trace-me-1")
    assert (line["level"], line["path"], line["status"]) == ("info", "/predict", 200)
    assert line["prediction_id"] == good.json()["prediction_id"]
    (refused,) = events_of(server, request_id="trace-me-2")
    assert (refused["level"], refused["reason"]) == ("warning", "bad_input")
    assert events_of(server, path="/ready") == []


def test_the_port_survives_clients_that_leave_in_the_middle(server: Server) -> None:
    for _ in range(10):
        with pytest.raises(httpx.HTTPError):
            fetch.post(f"{server.url}/predict", content=_breaks(), timeout=5.0)
    check_answer(predict(server, channel(0)), 0)
    assert ready(server)["errors"] == 0


def _breaks() -> Iterator[bytes]:
    yield b'{"data": ['
    raise httpx.WriteError("the client is gone")
