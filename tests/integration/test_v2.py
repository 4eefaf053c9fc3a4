"""The Open Inference Protocol on the running service: its clients, its batches, its refusals."""

import asyncio
import json
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from bentos import __version__
from bentos.inference.v2.messages import HEADER_LENGTH
from bentos.inference.v2.tensors import OUTPUTS
from tests.support.inference import channel, metric, ready, start_inference
from tests.support.models import (
    COLOUR_CLASSES,
    COLOUR_DEFECTS,
    COLOUR_SHAPE,
    COLOURS,
    ModelStore,
)
from tests.support.servers import Server, start_service

LOGGING_TARGET = "bentos.logging.service:LoggingService"
MODEL = f"/v2/models/{COLOURS}"
INFER = f"{MODEL}/infer"
SIZE = len(channel(0))
QUEUE_SIZE = 64
TOKEN = "correct horse battery staple"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
OVERFLOWS = [3e38] * SIZE
ROWS = np.array([channel(index % 3) for index in range(8)], np.float32)
CLASSES = [index % 3 for index in range(8)]


class World:
    """The inference service, which asks for a token, and the logging service behind it."""

    def __init__(self, directory: Path, store: ModelStore) -> None:
        self.database = directory / "predictions.db"
        self.logging = start_service(
            LOGGING_TARGET, directory, env={"DATABASE_PATH": str(self.database)}
        )
        tokens = directory / "tokens"
        tokens.write_text(TOKEN)
        self.server = start_inference(
            directory,
            store.copy(directory).tracking_uri,
            env={
                "LOGGING_URL": self.logging.url,
                "PREDICT_TOKENS_FILE": str(tokens),
                "QUEUE_SIZE": str(QUEUE_SIZE),
            },
        )

    def close(self) -> None:
        self.server.kill()
        self.logging.kill()

    def stored(self) -> list[dict[str, Any]]:
        """Return every prediction in the logging service's database."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute("SELECT * FROM predictions")]

    def wait_stored(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Wait until these predictions are stored; return them in this order."""
        found: dict[str, dict[str, Any]] = {}

        def all_stored() -> bool:
            found.update({row["prediction_id"]: row for row in self.stored()})
            return set(ids) <= set(found)

        self.server.wait_until(all_stored, f"{len(ids)} predictions in the database")
        return [found[one] for one in ids]


@pytest.fixture(scope="module")
def world(model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("v2"), model_store)
    try:
        made.logging.wait_until_ready()
        made.server.wait_until_ready()
        yield made
    finally:
        made.close()


@pytest.fixture
def server(world: World) -> Server:
    return world.server


def address(server: Server) -> str:
    return server.url.removeprefix("http://")


def tensor(rows: "NDArray[Any]", *, binary: bool, datatype: str = "FP32") -> triton.InferInput:
    made = triton.InferInput("input", list(rows.shape), datatype)
    made.set_data_from_numpy(rows, binary_data=binary)
    return made


def wanted(*names: str, binary: bool) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def text_of(value: bytes | str) -> str:
    """Return a text of NVIDIA's client, which gives bytes where it came as bytes."""
    return value.decode() if isinstance(value, bytes) else value


def check_rows(result: Any, classes: Sequence[int]) -> None:
    """Check every output of an answer, read by NVIDIA's own client."""
    names = [COLOUR_CLASSES[index] for index in classes]
    assert result.as_numpy("class").tolist() == list(classes)
    assert result.as_numpy("class").dtype == np.int64
    assert [text_of(name) for name in result.as_numpy("class_name")] == names
    assert result.as_numpy("defect_detected").tolist() == [name in COLOUR_DEFECTS for name in names]
    assert {text_of(one) for one in result.as_numpy("verdict")} <= {"pass", "fail"}
    probabilities = result.as_numpy("probabilities")
    assert probabilities.shape == (len(classes), len(COLOUR_CLASSES))
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert probabilities.argmax(axis=1).tolist() == list(classes)
    ids = result.as_numpy("prediction_id").tolist()
    assert len(set(ids)) == len(classes)


def body_of(**changes: object) -> dict[str, Any]:
    """Return a request with two inputs, with changes to its tensor."""
    one = {"name": "input", "shape": [2, SIZE], "datatype": "FP32", "data": ROWS[:2].tolist()}
    return {"inputs": [{**one, **changes}]}


def infer(server: Server, content: object, path: str = INFER) -> httpx.Response:
    return server.post(path, json=content, headers=dict(AUTHORIZED))


def infer_binary(server: Server, head: object, raw: bytes, length: object = None) -> httpx.Response:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    headers = {HEADER_LENGTH: str(len(text) if length is None else length), **AUTHORIZED}
    return server.post(INFER, content=text + raw, headers=headers)


def outputs(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return {one["name"]: one for one in response.json()["outputs"]}


def test_tritons_client_finds_the_server_and_the_model(server: Server) -> None:
    with triton.InferenceServerClient(address(server)) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(COLOURS)
        assert client.is_model_ready(COLOURS, "1")
        about = client.get_server_metadata()
        assert (about["name"], about["version"]) == ("inference-service", __version__)
        assert "binary_tensor_data" in about["extensions"]
        for model in (client.get_model_metadata(COLOURS), client.get_model_metadata(COLOURS, "1")):
            assert (model["name"], model["versions"]) == (COLOURS, ["1"])
            (described,) = model["inputs"]
            assert described["datatype"] == "FP32"
            assert described["shape"] == [-1, *COLOUR_SHAPE]
            assert [one["name"] for one in model["outputs"]] == list(OUTPUTS)


@pytest.mark.parametrize("binary_output", [True, False])
@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("count", [1, 8])
def test_tritons_client_predicts_in_json_and_in_bytes(
    server: Server, count: int, binary_input: bool, binary_output: bool
) -> None:
    rows = ROWS[:count].reshape(count, *COLOUR_SHAPE)
    with triton.InferenceServerClient(address(server)) as client:
        result = client.infer(
            COLOURS,
            [tensor(rows, binary=binary_input)],
            outputs=wanted(*OUTPUTS, binary=binary_output),
            request_id="strip 7",
            headers=dict(AUTHORIZED),
        )
    check_rows(result, CLASSES[:count])
    assert result.get_response()["id"] == "strip 7"
    assert result.get_response()["model_version"] == "1"


def test_tritons_client_gets_all_outputs_where_it_names_none(server: Server) -> None:
    with triton.InferenceServerClient(address(server)) as client:
        given = [tensor(ROWS, binary=True)]
        check_rows(
            client.infer(COLOURS, given, headers=dict(AUTHORIZED), model_version="1"), CLASSES
        )
        compressed = client.infer(
            COLOURS, given, headers=dict(AUTHORIZED), request_compression_algorithm="gzip"
        )
        check_rows(compressed, CLASSES)


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_asynchronous_client_predicts(server: Server, binary: bool) -> None:
    async def ask() -> None:
        async with triton_aio.InferenceServerClient(address(server)) as client:
            assert await client.is_model_ready(COLOURS)
            asked = (
                client.infer(
                    COLOURS,
                    [tensor(ROWS[first:], binary=binary)],
                    outputs=wanted(*OUTPUTS, binary=binary),
                    headers=dict(AUTHORIZED),
                )
                for first in range(8)
            )
            for first, result in enumerate(await asyncio.gather(*asked)):
                check_rows(result, CLASSES[first:])

    asyncio.run(ask())


def test_tritons_client_reads_the_error(server: Server) -> None:
    with triton.InferenceServerClient(address(server)) as client:
        with pytest.raises(InferenceServerException, match=r"inputs\[0\].shape: expected") as error:
            client.infer(COLOURS, [tensor(ROWS[:, 1:], binary=True)], headers=dict(AUTHORIZED))
        assert error.value.status() == "400"
        with pytest.raises(InferenceServerException, match="the model is 'colours'"):
            client.get_model_metadata("another")


def test_every_row_of_a_batch_stands_in_the_database_once(world: World) -> None:
    body = {**body_of(shape=[8, SIZE], data=ROWS.tolist()), "id": "strip 7"}
    headers = {**AUTHORIZED, "X-Request-ID": "order-4711"}
    answers = [
        outputs(world.server.post(INFER, json=body, headers=headers)),
        outputs(infer(world.server, body)),
    ]
    ids = [one for answer in answers for one in answer["prediction_id"]["data"]]
    rows = world.wait_stored(ids)
    assert len({row["prediction_id"] for row in rows}) == 16
    assert [row["image_id"] for row in rows[:8]] == [f"strip 7[{row}]" for row in range(8)]
    assert {row["request_id"] for row in rows[:8]} == {"order-4711"}
    for row, index in zip(rows, CLASSES * 2, strict=True):
        assert COLOUR_CLASSES[index] in row["detections"]
        assert row["model_version"] == "1"
        scores = json.loads(row["confidence_scores"])
        assert int(np.argmax(scores)) == index
    world.server.wait_until(
        lambda: metric(world.server, "inference_log_backlog") == 0, "an empty outbox"
    )
    stored = [row["prediction_id"] for row in world.stored()]
    assert len(stored) == len(set(stored))


def test_a_batch_counts_as_predictions_and_as_one_request(server: Server) -> None:
    names = ("inference_predictions_total", "inference_prediction_duration_seconds_count")
    before = [metric(server, name) for name in names]
    outputs(infer(server, body_of(shape=[8, SIZE], data=ROWS.tolist())))
    assert [metric(server, name) for name in names] == [before[0] + 8, before[1] + 1]
    assert ready(server)["predictions_served"] == before[0] + 8
    route = {"route": "/v2/models/{model}/infer", "status": "200"}
    assert metric(server, "http_requests_total", **route) > 0


def test_predict_takes_several_inputs_and_answers_in_their_order(world: World) -> None:
    response = world.server.post("/predict", json={"data": ROWS.tolist()}, headers=dict(AUTHORIZED))
    assert response.status_code == 200, response.text
    answers = response.json()["predictions"]
    assert [one["class"] for one in answers] == CLASSES
    alone = world.server.post(
        "/predict", json={"data": channel(0)}, headers=dict(AUTHORIZED)
    ).json()
    assert set(answers[0]) == set(alone)
    assert answers[0]["confidence"] == alone["confidence"]
    world.wait_stored([one["prediction_id"] for one in answers])


def test_an_answer_is_that_of_predict(server: Server) -> None:
    body = np.array(channel(1), "<f4").tobytes()
    headers = {**AUTHORIZED, "Content-Type": "application/octet-stream"}
    alone = server.post("/predict", content=body, headers=headers).json()
    found = outputs(infer(server, body_of(shape=[1, SIZE], data=channel(1))))
    assert found["class"]["data"] == [alone["class"]]
    assert found["class_name"]["data"] == [alone["class_name"]]
    probability = found["probabilities"]["data"][alone["class"]]
    assert probability == pytest.approx(alone["confidence"], abs=1e-6)


def test_outputs_are_answered_as_they_are_asked_for(server: Server) -> None:
    asked = [{"name": "class_name", "parameters": {"binary_data": False}}, {"name": "class"}]
    response = infer(server, {**body_of(), "outputs": asked})
    assert list(outputs(response)) == ["class_name", "class"]
    assert "id" not in response.json()
    mixed = infer(
        server,
        {**body_of(), "outputs": asked, "parameters": {"binary_data_output": True}},
    )
    length = int(mixed.headers[HEADER_LENGTH])
    head = json.loads(mixed.content[:length])
    assert head["outputs"][0]["data"] == list(COLOUR_CLASSES[:2])
    assert head["outputs"][1]["parameters"] == {"binary_data_size": 16}
    assert np.frombuffer(mixed.content[length:], "<i8").tolist() == [0, 1]


def test_infer_asks_for_a_token_and_the_rest_does_not(server: Server) -> None:
    for path in (INFER, f"{MODEL}/versions/1/infer"):
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            refused = server.post(path, json=body_of(), headers=headers)
            assert refused.status_code == 401
            assert refused.json()["reason"] == "unauthorized"
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", MODEL, f"{MODEL}/ready"):
        assert server.get(path).status_code == 200


def test_the_protocols_probes_say_what_ready_says(server: Server) -> None:
    assert server.get("/v2/health/live").json() == {"live": True}
    assert server.get("/v2/health/ready").json() == {"ready": True}
    assert server.get(f"{MODEL}/ready").json() == {"name": COLOURS, "ready": True}


def test_an_unknown_model_or_version_is_a_404(server: Server) -> None:
    for path in (
        *("/v2/models/another", "/v2/models/another/ready", f"{MODEL}/versions/2"),
        *(f"{MODEL}/versions/2/ready", f"{MODEL}/versions/one", "/v2/models/%00"),
    ):
        response = server.get(path)
        assert response.status_code == 404, path
        assert response.json()["reason"] == "not_found"
        assert response.json()["field"] in ("model", "version")
    for path in ("/v2/models/another/infer", f"{MODEL}/versions/2/infer"):
        assert infer(server, body_of(), path).status_code == 404
    assert infer(server, body_of(), f"{MODEL}/versions/1/infer").status_code == 200
    assert server.get(INFER).status_code == 405
    assert server.get(f"{MODEL}/nothing").json()["reason"] == "not_found"


@pytest.mark.case(1)
def test_other_spellings_of_the_route_do_not_predict(server: Server) -> None:
    """Another spelling of `/v2/models/{model}/infer`, without the token: a 404, nothing is read."""
    for path in (
        *(f"{INFER}%0A", f"{INFER}/", f"/{INFER}", f"{INFER}%00", INFER.upper()),
        *(INFER.replace("/infer", "%2Finfer%2F"), INFER.replace("/v2/", "/v2/%2e/")),
    ):
        assert server.post(path, json=body_of()).status_code == 404, path


@pytest.mark.case(8)
def test_a_batch_with_a_row_that_the_model_cannot_bear_is_refused_whole(world: World) -> None:
    """One row of a batch that the model fails on: a 422 with its place, and no error counted."""
    before = metric(world.server, "inference_predictions_total")
    errors = ready(world.server)["errors"]
    rows = [channel(0), OVERFLOWS, channel(1), OVERFLOWS]
    response = infer(world.server, body_of(shape=[4, SIZE], data=rows))
    assert response.status_code == 422
    assert response.json()["reason"] == "model_rejected_input"
    assert response.json()["field"] == "inputs[0].data[1]"
    assert response.json()["error"].startswith("inputs[0].data[1]: the model fails")
    flat = world.server.post("/predict", json={"data": rows}, headers=dict(AUTHORIZED))
    assert (flat.status_code, flat.json()["field"]) == (422, "data[1]")
    assert metric(world.server, "inference_predictions_total") == before
    # A client that sends nonsense is no failure of the service.
    assert ready(world.server)["errors"] == errors


def test_batches_and_single_inputs_of_many_clients_get_their_own_answers(server: Server) -> None:
    def ask(number: int) -> bool:
        first, count = number % 3, 1 + number % 5
        rows = [channel((first + row) % 3) for row in range(count)]
        while True:
            response = infer(server, body_of(shape=[count, SIZE], data=rows))
            if response.status_code != 429:
                break
        found = outputs(response)["class"]["data"]
        return bool(found == [(first + row) % 3 for row in range(count)])

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(200)))


NAN = float("nan")
HUGE = 2**70
BAD_JSON: dict[str, tuple[object, int, str]] = {
    "no object": ([], 400, "body"),
    "no inputs": ({"inputs": []}, 400, "inputs"),
    "inputs missing": ({}, 400, "inputs"),
    "two tensors": ({"inputs": body_of()["inputs"] * 2}, 400, "inputs"),
    "input is a text": ({"inputs": ["x"]}, 400, "inputs[0]"),
    "no shape": ({"inputs": [{"name": "x", "datatype": "FP32", "data": []}]}, 400, "shape"),
    "no name": ({"inputs": [{"shape": [1], "datatype": "FP32", "data": []}]}, 400, "name"),
    "no data": (
        {"inputs": [{"name": "x", "shape": [1, SIZE], "datatype": "FP32"}]},
        400,
        "inputs[0].data",
    ),
    "an empty batch": (body_of(shape=[0, SIZE], data=[]), 400, "inputs[0].shape"),
    "negative": (body_of(shape=[-2, SIZE]), 400, "inputs[0].shape"),
    "two negative": (body_of(shape=[-2, -SIZE]), 400, "inputs[0].shape"),
    "a huge shape": (body_of(shape=[HUGE, SIZE]), 413, "inputs[0].shape"),
    "overflowing": (body_of(shape=[2**62, 2**62]), 400, "inputs[0].shape"),
    "many dimensions": (body_of(shape=[1] * 10_000), 400, "inputs[0].shape"),
    "no dimensions": (body_of(shape=[]), 400, "inputs[0].shape"),
    "no batch": (body_of(shape=[SIZE]), 400, "inputs[0].shape"),
    "fractions": (body_of(shape=[1.5, SIZE]), 400, "inputs[0].shape[0]"),
    "a text as shape": (body_of(shape="[2, 768]"), 400, "inputs[0].shape"),
    "more rows than may wait": (
        body_of(shape=[QUEUE_SIZE + 1, SIZE], data=[0]),
        413,
        "inputs[0].shape",
    ),
    "too little data": (body_of(data=[1.0]), 400, "inputs[0].data"),
    "too much data": (body_of(shape=[1, SIZE]), 400, "inputs[0].data"),
    "texts": (body_of(data=["x"] * (2 * SIZE)), 400, "inputs[0].data"),
    "null among numbers": (body_of(data=[None] * (2 * SIZE)), 400, "inputs[0].data"),
    "an object as data": (body_of(data={}), 400, "inputs[0].data"),
    "beyond float32": (body_of(data=[1e39] * (2 * SIZE)), 400, "inputs[0].data[0][0]"),
    "beyond 64 bits": (body_of(data=[HUGE] * (2 * SIZE)), 400, "inputs[0].data"),
    "no UINT8": (body_of(datatype="UINT8", data=[300] * (2 * SIZE)), 400, "inputs[0].data[0][0]"),
    "no INT32": (body_of(datatype="INT32", data=[0.5] * (2 * SIZE)), 400, "inputs[0].data[0][0]"),
    "bytes": (body_of(datatype="BYTES"), 400, "inputs[0].datatype"),
    "datatype of a number": (body_of(datatype=32), 400, "inputs[0].datatype"),
    "parameters of a text": (body_of(parameters="x"), 400, "inputs[0].parameters"),
    "shared memory": (
        body_of(parameters={"shared_memory_region": "x"}),
        400,
        "inputs[0].parameters.shared_memory_region",
    ),
    "id of a number": ({**body_of(), "id": 7}, 400, "id"),
    "a long id": ({**body_of(), "id": "x" * 10_000}, 400, "id"),
    "unknown output": ({**body_of(), "outputs": [{"name": "x"}]}, 400, "outputs[0].name"),
    "an output twice": (
        {**body_of(), "outputs": [{"name": "class"}] * 2},
        400,
        "outputs[1].name",
    ),
    "many outputs": ({**body_of(), "outputs": [{"name": "class"}] * 10_000}, 400, "outputs"),
    "outputs of a number": ({**body_of(), "outputs": 1}, 400, "outputs"),
    "classification": (
        {**body_of(), "outputs": [{"name": "class", "parameters": {"classification": 3}}]},
        400,
        "outputs[0].parameters.classification",
    ),
    "binary_data of a text": (
        {**body_of(), "outputs": [{"name": "class", "parameters": {"binary_data": "yes"}}]},
        400,
        "outputs[0].parameters.binary_data",
    ),
    "binary_data_output of a number": (
        {**body_of(), "parameters": {"binary_data_output": 1}},
        400,
        "parameters.binary_data_output",
    ),
}


def check_refused(response: httpx.Response, status: int, field: str) -> None:
    assert response.status_code == status, response.text
    content = response.json()
    assert set(content) <= {"error", "reason", "field"}
    assert content["reason"] == ("too_large" if status == 413 else "bad_input")
    assert content.get("field", "").endswith(field), content
    assert content["error"]
    assert len(response.content) < 2_000


@pytest.mark.parametrize("name", BAD_JSON)
def test_a_bad_request_is_refused_with_the_field(server: Server, name: str) -> None:
    content, status, field = BAD_JSON[name]
    check_refused(infer(server, content), status, field)


RAW = ROWS[:2].tobytes()
BINARY = {"inputs": [{"name": "input", "shape": [2, SIZE], "datatype": "FP32"}]}


def of_size(size: int, **changes: object) -> dict[str, Any]:
    return {
        "inputs": [{**BINARY["inputs"][0], "parameters": {"binary_data_size": size}, **changes}]
    }


WITH_NAN = np.where(np.arange(2 * SIZE) == SIZE + 5, np.nan, 0).astype("<f4").tobytes()
BAD_BINARY: dict[str, tuple[object, bytes, object, int, str]] = {
    "header beyond the body": (of_size(len(RAW)), RAW, 10**6, 400, HEADER_LENGTH),
    "header of zero": (of_size(len(RAW)), RAW, 0, 400, HEADER_LENGTH),
    "header negative": (of_size(len(RAW)), RAW, -5, 400, HEADER_LENGTH),
    "header no number": (of_size(len(RAW)), RAW, "x" * 5_000, 400, HEADER_LENGTH),
    "header of many digits": (of_size(len(RAW)), RAW, "9" * 5_000, 400, HEADER_LENGTH),
    "header in the numbers": (of_size(len(RAW)), RAW, 200, 400, ""),
    "header in the JSON": (of_size(len(RAW)), RAW, 20, 400, ""),
    "numbers cut short": (of_size(len(RAW)), RAW[:-4], None, 400, "body"),
    "bytes left over": (of_size(len(RAW)), RAW + b"\0", None, 400, "body"),
    "no size": (BINARY, RAW, None, 400, "inputs[0].parameters.binary_data_size"),
    "negative size": (of_size(-1), RAW, None, 400, "inputs[0].parameters.binary_data_size"),
    "wrong size": (of_size(8), RAW, None, 400, "inputs[0].parameters.binary_data_size"),
    "huge size": (of_size(HUGE), RAW, None, 400, "inputs[0].parameters.binary_data_size"),
    "size and data": (of_size(len(RAW), data=[1]), RAW, None, 400, "inputs[0].data"),
    "NaN": (of_size(len(RAW)), WITH_NAN, None, 400, "inputs[0].data[1][5]"),
    "no JSON": (b"\xff" * 50, RAW, None, 400, ""),
    "deep JSON": (b"[" * 50_000, RAW, None, 400, ""),
    "deep JSON in an object": (b'{"x":' * 10_000, RAW, None, 400, ""),
    "deep JSON beside": (b'{"x":' + b"[" * 60_000 + b"]" * 60_000 + b"}", b"", None, 400, ""),
    "empty": (b"", b"", None, 400, HEADER_LENGTH),
}


@pytest.mark.parametrize("name", BAD_BINARY)
def test_a_bad_binary_request_is_refused_with_the_field(server: Server, name: str) -> None:
    head, raw, length, status, field = BAD_BINARY[name]
    check_refused(infer_binary(server, head, raw, length), status, field)


BAD_ROWS: dict[str, tuple[object, int, str]] = {
    "ragged": ([channel(0), channel(1)[1:]], 400, "data[1]"),
    "an empty row": ([channel(0), []], 400, "data[1]"),
    "a number among rows": ([channel(0), 1.0], 400, "data[1]"),
    "a text among numbers": ([["x"] * SIZE], 400, "data"),
    "rows of rows": ([[channel(0)]], 400, "data[0]"),
    "a nested row": ([channel(0), [channel(1)]], 400, "data[1]"),
    "numbers in arrays": ([channel(0), [[1.0]] * SIZE], 413, "data"),
    "a number in an array": ([channel(0), [[1.0], *channel(1)[1:]]], 400, "data"),
    "beyond float32": ([channel(0), [1e39] * SIZE], 400, "data[1][0]"),
    "too many rows": ([[]] * 100_000, 413, "data"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows_of_predict_are_refused_with_their_place(server: Server, name: str) -> None:
    data, status, field = BAD_ROWS[name]
    response = server.post("/predict", json={"data": data}, headers=dict(AUTHORIZED))
    check_refused(response, status, field)


def test_the_service_is_as_ready_as_before_after_all_of_this(server: Server) -> None:
    assert ready(server)["status"] == "ready"
    assert ready(server)["errors"] == 0
