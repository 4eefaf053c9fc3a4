"""The API pages of both services: valid OpenAPI, complete, and true of what the probes answer."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from bentos import __version__
from bentos.edge.openapi import ApiPage
from bentos.inference.service import Inference
from bentos.inference.settings import InferenceSettings
from bentos.inference.state import inference_probes
from bentos.logging.service import Logging
from bentos.logging.settings import LoggingSettings
from bentos.logging.state import logging_probes
from bentos.messages import Prediction
from bentos.process.probe_process import ProbePlan

SERVICES: Mapping[str, ApiPage] = {"inference": Inference.api, "logging": Logging.api}


def plan_of(name: str, folder: Path) -> ProbePlan:
    if name == "inference":
        return inference_probes(InferenceSettings(), folder)
    return logging_probes(LoggingSettings(), folder)


@pytest.fixture(params=SERVICES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def plan(name: str, tmp_path: Path) -> ProbePlan:
    return plan_of(name, tmp_path)


@pytest.fixture
def document(name: str, plan: ProbePlan) -> dict[str, Any]:
    """The document as a client gets it."""
    return dict(json.loads(json.dumps(SERVICES[name].document(plan))))


def contents(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each body of each request and answer, and where it is."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            bodies = {"request": operation.get("requestBody", {}), **operation["responses"]}
            for status, body in bodies.items():
                for media_type, content in body.get("content", {}).items():
                    yield f"{method} {path} {status} {media_type}", content


def check(value: object, schema: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    """Raise ValidationError where a value is not what a schema of the document says."""
    jsonschema.Draft202012Validator(
        {**schema, "components": document["components"]}  # where references lead
    ).validate(value)


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()


def test_it_has_a_title_a_version_and_a_description_of_its_own(
    name: str, document: dict[str, Any]
) -> None:
    assert document["info"]["title"] == f"{name.capitalize()} service"
    assert document["info"]["version"] == __version__
    assert document["info"]["description"]
    assert "BentoML" not in json.dumps(document["info"])


def test_every_body_has_a_schema_that_says_something(document: dict[str, Any]) -> None:
    for where, content in contents(document):
        schema = content["schema"]
        assert schema, where
        if schema.get("type") == "object":
            assert schema.get("properties") or content["example"], where


def test_every_json_body_has_an_example_that_its_schema_takes(document: dict[str, Any]) -> None:
    for where, content in contents(document):
        if where.endswith(("json", "plain")):
            assert "example" in content, where
            check(content["example"], content["schema"], document)


def test_every_field_of_a_prediction_is_described_and_those_kept_as_json_by_what_they_hold() -> (
    None
):
    components: Any = Logging.api.document(plan_of("logging", Path()))["components"]
    described = components["schemas"]["Prediction"]

    assert set(described["properties"]) == set(Prediction.__struct_fields__)
    assert described["properties"]["detections"]["items"] == {
        "$ref": "#/components/schemas/Detection"
    }
    assert {one["type"] for one in described["properties"]["confidence_scores"]["anyOf"]} == {
        *("array", "object"),
    }
    assert all(one.get("description") for one in described["properties"].values() if "type" in one)


def test_every_route_says_how_it_fails(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            statuses = set(operation["responses"])
            assert "200" in statuses, path
            if operation.get("parameters"):
                assert statuses - {"200"}, path
            if method == "post":
                assert {"400", "401", "413", "429", "503", "504"} <= statuses, path


def test_the_probes_list_every_reason(document: dict[str, Any], plan: ProbePlan) -> None:
    for path, status, checks in (
        ("/ready", "503", plan.readiness),
        ("/health", "500", plan.liveness),
    ):
        answers = document["paths"][path]["get"]["responses"]
        schema = answers[status]["content"]["application/json"]["schema"]
        listed = schema["properties"]["reason"]["enum"]
        assert {check.reason for check in checks} <= set(listed)


def test_what_the_probes_answer_is_what_the_document_says(
    document: dict[str, Any], plan: ProbePlan
) -> None:
    probes = plan.probes(worker=1)
    for path, answer in probes.answers().items():
        if path == "/metrics":
            continue
        found = answer("")
        body = json.loads(found.body)
        response = document["paths"][path]["get"]["responses"][str(found.status)]
        schema = response["content"]["application/json"]["schema"]
        check(body, schema, document)
        if path == "/ready":
            # Beside what it says of itself, only details of its reasons.
            assert set(schema["properties"]) <= set(body)


def test_the_page_asks_no_other_host_for_anything(name: str, plan: ProbePlan) -> None:
    (page,) = [route for route in SERVICES[name].routes(plan) if route.path == "/docs"]
    handler: Any = page.handler
    with pytest.raises(StopIteration) as stopped:
        handler(None).send(None)
    answer = stopped.value.value
    body = answer.body.decode()
    assert not re.search(r'(?:src|href)="(?:https?:)?//', body)
    assert "validatorUrl: null" in body
    policy = dict(answer.headers)[b"content-security-policy"].decode()
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_the_root_shows_the_api_page_of_the_inference_service_alone(tmp_path: Path) -> None:
    """The logging service's root shows the status page."""
    roots = {
        name: "/" in [route.path for route in api.routes(plan_of(name, tmp_path / name))]
        for name, api in SERVICES.items()
    }
    assert roots == {"inference": True, "logging": False}


def test_bentoml_brings_the_files_that_show_the_page() -> None:
    import bentoml

    folder = Path(bentoml.__file__).parent / "_internal" / "server" / "static_content"
    assert {"swagger-ui.css", "swagger-ui-bundle.js"} <= {path.name for path in folder.iterdir()}
