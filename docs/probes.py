"""What pages show of probes: answers, manifests, and the diagrams that are made of them."""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bentos.inference.settings import InferenceSettings
from bentos.inference.state import inference_probes
from bentos.logging.settings import LoggingSettings
from bentos.logging.state import logging_probes
from bentos.process.probe_process import ProbePlan
from docs.answers import read_answers
from monitoring.compact_json import compact_json

ROOT = Path(__file__).resolve().parents[1]
HEALTH_ENDPOINTS = ROOT / "docs" / "health-endpoints.md"
REGION = re.compile(
    r"(?P<begin><!-- generated: (?P<kind>[\w-]+)(?: (?P<argument>[^\n]*?))? -->\n)"
    r".*?(?P<end><!-- end -->)",
    re.DOTALL,
)
MANIFESTS = {
    "inference-service": ROOT / "k8s" / "base" / "inference" / "deployment.yaml",
    "logging-service": ROOT / "k8s" / "base" / "logging" / "stateful-set.yaml",
}
PROBES = ("startup", "readiness", "liveness")

# What each line of a probe means; the value and what follows from it are put in.
_LINES: Mapping[str, str] = {
    "path": "The route that the kubelet asks. {path_meaning}",
    "port": "The container port of this name: the probe process, not the service's own port.",
    "periodSeconds": "The kubelet asks every {value} seconds.",
    "timeoutSeconds": "An answer that takes longer than {value} seconds counts as a failure.",
    "failureThreshold": (
        "{value} failures in a row have a consequence: after {patience} seconds of them "
        "{consequence}."
    ),
    "successThreshold": "{value} success takes a failure back.",
}
_PATHS = {
    "/health": "`/health` fails only for what a restart mends.",
    "/ready": "`/ready` fails whenever a request would not be answered.",
}
_CONSEQUENCES = {
    "startup": "the container is restarted; until the first success the other two probes wait",
    "readiness": "the pod gets no more requests, until it succeeds again",
    "liveness": "the container is restarted",
}


def plans() -> dict[str, ProbePlan]:
    """Return the probes of both services with their default settings."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            "inference-service": inference_probes(InferenceSettings(), Path(folder)),
            "logging-service": logging_probes(LoggingSettings(), Path(folder)),
        }


def manifest_probe(service: str, kind: str) -> dict[str, Any]:
    """Return a probe of a service's container, as its manifest has it."""
    content = yaml.safe_load(MANIFESTS[service].read_text(encoding="utf-8"))
    (container,) = content["spec"]["template"]["spec"]["containers"]
    return dict(container[f"{kind}Probe"])


def shown_answer(key: str) -> str:
    answer = read_answers()[key]
    return f"```json\n{compact_json(answer.body, width=90)}\n```"


def other_probe_answers(_: str) -> str:
    """Return the answers of probes that the page shows nowhere else, folded."""
    page = HEALTH_ENDPOINTS.read_text(encoding="utf-8")
    shown = {match["argument"] for match in REGION.finditer(page)}
    parts = [
        f'<details markdown="1"><summary>{key}</summary>\n\n{shown_answer(key)}\n\n</details>\n'
        for key, answer in read_answers().items()
        if answer.is_probe and key not in shown
    ]
    return "\n".join(parts)


def request_answers(_: str) -> str:
    """Return what the routes that are no probes answer where they refuse or fail."""
    lines = ["| service | request | status | body |", "|---|---|--:|---|"]
    for answer in read_answers().values():
        if not answer.is_probe and answer.status != 200:
            body = json.dumps(answer.body).replace("|", "\\|")
            lines.append(
                f"| {answer.service.removesuffix('-service')} | `{answer.request}` "
                f"| {answer.status} | `{body}` |"
            )
    return "\n".join(lines)


def probe_lines(argument: str) -> str:
    """Return a probe of a manifest, and what each of its lines means."""
    service, kind = argument.split()
    probe = manifest_probe(service, kind)
    block = yaml.safe_dump({f"{kind}Probe": probe}, sort_keys=False).strip()
    lines = {**probe.pop("httpGet"), **probe}
    words = {
        "path_meaning": _PATHS[lines["path"]],
        "patience": lines["periodSeconds"] * lines["failureThreshold"],
        "consequence": _CONSEQUENCES[kind],
    }
    rows = [
        f"| `{name}: {value}` | {_LINES[name].format(value=value, **words)} |"
        for name, value in lines.items()
    ]
    return "\n".join([f"```yaml\n{block}\n```\n", "| line | meaning |", "|---|---|", *rows])


def timeline(service: str) -> str:
    """Return the time line of a pod's probes as a Gantt chart, in seconds from its start."""
    startup, readiness, liveness = (manifest_probe(service, kind) for kind in PROBES)
    until = startup["periodSeconds"] * startup["failureThreshold"]
    unready = readiness["periodSeconds"] * readiness["failureThreshold"]
    restart = liveness["periodSeconds"] * liveness["failureThreshold"]
    grace = yaml.safe_load(MANIFESTS[service].read_text(encoding="utf-8"))["spec"]["template"][
        "spec"
    ]["terminationGracePeriodSeconds"]
    chart = [
        "```mermaid",
        "gantt",
        f"    title {service}: a pod that stops answering at 0 s",
        "    dateFormat X",
        "    axisFormat %s s",
        "    section /ready",
        f"    asked every {readiness['periodSeconds']} s, fails :active, 0, {unready}",
        f"    gets no requests :crit, {unready}, {restart + grace}",
        "    section /health",
        f"    asked every {liveness['periodSeconds']} s, fails :active, 0, {restart}",
        "    section container",
        f"    runs :done, 0, {restart}",
        f"    SIGTERM, then SIGKILL :crit, {restart}, {restart + grace}",
        "```",
    ]
    table = [
        "| what | seconds, at most |",
        "|---|--:|",
        f"| start-up, asked every {startup['periodSeconds']} s | {until} |",
        f"| from the first failing `/ready` until no requests come | {unready} |",
        f"| from the first failing `/health` until the container is ended | {restart} |",
        f"| from SIGTERM to SIGKILL | {grace} |",
    ]
    return "\n".join([*chart, "", *table])


def tree(service: str) -> str:
    """Return the checks of `/ready`, in their order, as a decision tree."""
    reasons = list(dict.fromkeys(check.reason for check in plans()[service].readiness))
    lines = ["```mermaid", "flowchart TB", '    ask(["GET /ready"]) --> s0']
    for number, reason in enumerate(reasons):
        following = f"s{number + 1}" if number + 1 < len(reasons) else "ok"
        # A box for each check keeps question and answer side by side, and the checks in a column.
        lines += [
            f'    subgraph s{number} [" "]',
            "        direction LR",
            f'        q{number}["{QUESTIONS[reason]}"] -->|no| r{number}["503 {reason}"]',
            "    end",
            f"    s{number} -->|yes| {following}",
        ]
    return "\n".join([*lines, '    ok(["200 ready"])', "```"])


def probe_times(_: str) -> str:
    """Return the benchmark's response times of probes beside saturated servers."""
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| saturated \|(?:[^|]*\|){3} ([\d.]+) \|", page, re.MULTILINE)
    names = ", ".join(f'"{name}"' for name, _ in rows)
    bars = ", ".join(time for _, time in rows)
    chart = [
        "```mermaid",
        "xychart-beta horizontal",
        '    title "p99 of a probe of a busy server"',
        f"    x-axis [{names}]",
        '    y-axis "milliseconds"',
        f"    bar [{bars}]",
        "```",
    ]
    table = [
        "| server | p99 in ms |",
        "|---|--:|",
        *(f"| {name} | {time} |" for name, time in rows),
    ]
    return "\n".join([*chart, "", *table])


# What each check of `/ready` asks; yes is well.
QUESTIONS: Mapping[str, str] = {
    "shutting_down": "Is the pod to go on running?",
    "worker_missing": "Do all workers run?",
    "event_loop_stalled": "Do their event loops beat?",
    "port_not_answering": "Does the own port answer?",
    "model_not_loaded": "Has the model answered its warm-up?",
    "model_thread_stuck": "Does the model process answer?",
    "mlflow_not_accessible": "Does MLflow answer, where it is required?",
    "outbox_full": "Is there room in the outbox?",
    "outbox_not_accessible": "Can the outbox be written?",
    "database_not_initialized": "Is the database open?",
    "database_not_accessible": "Does it take a write?",
    "high_error_rate": "Did at most half of the requests fail?",
    "worker_not_serving": "Do all workers take connections?",
}
