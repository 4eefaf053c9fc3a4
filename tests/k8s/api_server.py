"""The API of a cluster, as much of it as kubectl needs: objects in memory, no controllers.

kubectl is the real one. What a controller or a kubelet would do, a test does with `Cluster.put`.
Bodies have to be JSON. `kubectl create secret` and the like send another encoding.
"""

import copy
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.k8s.manifests import Object

# Group and version, plural, kind, short name, in a namespace.
_KINDS = (
    ("v1", "pods", "Pod", "po", True),
    ("v1", "services", "Service", "svc", True),
    ("v1", "secrets", "Secret", "", True),
    ("v1", "configmaps", "ConfigMap", "cm", True),
    ("v1", "persistentvolumeclaims", "PersistentVolumeClaim", "pvc", True),
    ("v1", "namespaces", "Namespace", "ns", False),
    ("v1", "nodes", "Node", "no", False),
    ("v1", "events", "Event", "ev", True),
    ("apps/v1", "deployments", "Deployment", "deploy", True),
    ("apps/v1", "statefulsets", "StatefulSet", "sts", True),
    ("apps/v1", "daemonsets", "DaemonSet", "ds", True),
    ("apps/v1", "replicasets", "ReplicaSet", "rs", True),
    ("apps/v1", "controllerrevisions", "ControllerRevision", "", True),
    ("batch/v1", "jobs", "Job", "", True),
    ("batch/v1", "cronjobs", "CronJob", "cj", True),
    ("autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", "hpa", True),
)
_SUBRESOURCES = (("v1", "pods/eviction", "Eviction"), ("v1", "pods/log", "Pod"))
_SCALED = ("deployments", "statefulsets")
_VERBS = ["get", "list", "watch", "create", "update", "patch", "delete"]
_PATH = re.compile(
    r"/(?:api|apis)/(?P<version>v1|[a-z.0-9]+/v[0-9a-z]+)"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<subresource>[a-z]+))?$"
)

Key = tuple[str, str, str]


@dataclass
class Cluster:
    """The objects, by plural, namespace and name.

    `requests` lists the writes, and `changed` is called with each object that one has stored.
    """

    config: Path
    objects: dict[Key, Object] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    changed: Callable[[Object], None] = lambda _: None
    _versions: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def put(self, item: Object) -> Object:
        """Store an object, or another version of it, and return it as the API shows it."""
        (plural,) = (plural for _, plural, kind, *_ in _KINDS if kind == item["kind"])
        stored = copy.deepcopy(item)
        stored["metadata"] |= {"resourceVersion": str(next(self._versions))}
        stored["metadata"].setdefault("uid", f"uid-{stored['metadata']['resourceVersion']}")
        stored["metadata"].setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        key = (plural, item["metadata"].get("namespace", ""), item["metadata"]["name"])
        self.objects[key] = stored
        self.changed(stored)
        return stored

    def get(self, plural: str, name: str, namespace: str = "mlops") -> Object:
        """Return an object; KeyError where there is none."""
        return self.objects[plural, namespace, name]

    def find(self, plural: str, namespace: str | None, query: dict[str, str]) -> list[Object]:
        """Return the objects that a list request asks for."""
        return [
            item
            for (kind, place, _), item in list(self.objects.items())
            if kind == plural
            and namespace in (None, place)
            and _matches(query.get("labelSelector", ""), item["metadata"].get("labels", {}))
            and _matches(query.get("fieldSelector", ""), _Fields(item))
        ]


class _Fields(dict[str, str]):
    """An object's fields by their paths, as field selectors name them."""

    def __init__(self, item: Object) -> None:
        self._item = item

    def get(self, path: str, default: Any = None) -> Any:
        """Return the field at a path."""
        found: Any = self._item
        for step in path.split("."):
            found = found.get(step, {}) if isinstance(found, dict) else {}
        return found or default


def _matches(selector: str, values: dict[str, str]) -> bool:
    """Tell whether `a=b,c!=d` or `a in (b)` holds."""
    selector = re.sub(r"\s+in\s+\((\w[^,)]*)\)", r"=\1", selector)
    for term in filter(None, selector.split(",")):
        key, operator, value = re.fullmatch(r"([^=!]+)(==?|!=)(.*)", term).groups()  # type: ignore[union-attr]
        if (values.get(key) == value) == (operator == "!="):
            return False
    return True


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    merged = {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
    return {key: value for key, value in merged.items() if value is not None}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if (found := _discovery(url.path)) is not None:
            self._answer(found)
            return
        match = _PATH.match(url.path)
        if match is None:
            self._fail(404, "NotFound", self.path)
        elif match["subresource"] == "log":
            self._text(f'{{"message":"the log of {match["name"]}"}}\n')
        elif match["subresource"] == "scale":
            item = self._object(match)
            if item is not None:
                self._answer(_scale_of(item))
        elif match["name"]:
            item = self._object(match)
            if item is not None:
                self._answer(item)
        elif query.get("watch") in ("true", "1"):
            self._watch(match["plural"], match["namespace"], query)
        else:
            found = self.cluster.find(match["plural"], match["namespace"], query)
            version, _, kind, *_ = _kind_of(match["plural"])
            self._answer(
                {
                    "kind": f"{kind}List",
                    "apiVersion": version,
                    "metadata": {"resourceVersion": "1"},
                    "items": found,
                }
            )

    def do_POST(self) -> None:
        match, body = self._write()
        if match["subresource"] == "eviction":
            self.cluster.objects.pop(("pods", match["namespace"], match["name"]), None)
            self._answer({"kind": "Status", "apiVersion": "v1", "status": "Success"}, 201)
            return
        body["metadata"].setdefault("namespace", match["namespace"] or "")
        key = (match["plural"], match["namespace"] or "", body["metadata"]["name"])
        if key in self.cluster.objects:
            self._fail(409, "AlreadyExists", key[2])
            return
        self._answer(self.cluster.put(body), 201)

    def do_PUT(self) -> None:
        match, body = self._write()
        item = self._object(match)
        if item is None:
            return
        if match["subresource"] == "scale":
            item["spec"]["replicas"] = body["spec"]["replicas"]
            self._answer(_scale_of(self.cluster.put(item)))
            return
        self._answer(self.cluster.put(body))

    def do_PATCH(self) -> None:
        match, body = self._write()
        item = self._object(match)
        if item is None:
            return
        if isinstance(body, list):
            self._fail(415, "UnsupportedMediaType", "a JSON patch")
            return
        changed = self.cluster.put(_merged(item, body))
        self._answer(_scale_of(changed) if match["subresource"] == "scale" else changed)

    def do_DELETE(self) -> None:
        match, _ = self._write()
        item = self._object(match)
        if item is not None:
            del self.cluster.objects[match["plural"], match["namespace"] or "", match["name"]]
            self._answer(item)

    def _write(self) -> tuple[re.Match[str], Any]:
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else {}
        match = _PATH.match(url.path)
        assert match is not None, self.path
        self.cluster.requests.append(f"{self.command} {url.path}")
        return match, body

    def _object(self, match: re.Match[str]) -> Object | None:
        key = (match["plural"], match["namespace"] or "", match["name"])
        if key not in self.cluster.objects:
            self._fail(404, "NotFound", f'{match["plural"]} "{match["name"]}" not found')
            return None
        return copy.deepcopy(self.cluster.objects[key])

    def _watch(self, plural: str, namespace: str | None, query: dict[str, str]) -> None:
        """Send what there is, then every change, until the client goes."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        seen: dict[str, Object] = {}
        until = time.monotonic() + float(query.get("timeoutSeconds", 30))
        while time.monotonic() < until:
            now = {
                item["metadata"]["uid"]: item
                for item in self.cluster.find(plural, namespace, query)
            }
            events = [
                {"type": "MODIFIED" if uid in seen else "ADDED", "object": item}
                for uid, item in now.items()
                if seen.get(uid) != item
            ]
            events += [
                {"type": "DELETED", "object": item} for uid, item in seen.items() if uid not in now
            ]
            seen = now
            try:
                for event in events:
                    content = json.dumps(event).encode() + b"\n"
                    self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
                self.wfile.flush()
            except OSError:
                return
            time.sleep(0.05)
        self.wfile.write(b"0\r\n\r\n")

    def _text(self, content: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(content.encode())))
        self.end_headers()
        self.wfile.write(content.encode())

    def _answer(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _fail(self, status: int, reason: str, message: str) -> None:
        content = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason}
        self._answer({**content, "message": message, "code": status}, status)


def _kind_of(plural: str) -> tuple[str, str, str, str, bool]:
    return next(entry for entry in _KINDS if entry[1] == plural)


def _scale_of(item: Object) -> Object:
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": item["metadata"],
        "spec": {"replicas": item["spec"].get("replicas", 1)},
        "status": {"replicas": item["spec"].get("replicas", 1)},
    }


def _discovery(path: str) -> object | None:
    """Return what kubectl reads to find out which kinds there are."""
    versions = sorted({entry[0] for entry in _KINDS} - {"v1"})
    if path == "/version":
        return {"major": "1", "minor": "36", "gitVersion": "v1.36.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = [
            {
                "name": version.partition("/")[0],
                "versions": [{"groupVersion": version, "version": version.partition("/")[2]}],
                "preferredVersion": {
                    "groupVersion": version,
                    "version": version.partition("/")[2],
                },
            }
            for version in versions
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    version = path.removeprefix("/api/").removeprefix("/apis/")
    if version in (*versions, "v1") and path.count("/") == version.count("/") + 2:
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": version,
            "resources": _resources(version),
        }
    if path == "/openapi/v3":
        paths = {
            f"{'api' if name == 'v1' else 'apis'}/{name}": {
                "serverRelativeURL": f"/openapi/v3/{name}"
            }
            for name in (*versions, "v1")
        }
        return {"paths": paths}
    if path.startswith("/openapi/v3/"):
        return _openapi(path.removeprefix("/openapi/v3/"))
    return None


def _resources(version: str) -> list[Object]:
    found = [
        {
            "name": plural,
            "singularName": kind.lower(),
            "namespaced": namespaced,
            "kind": kind,
            "verbs": _VERBS,
            "shortNames": [short] if short else [],
        }
        for group, plural, kind, short, namespaced in _KINDS
        if group == version
    ]
    more = [entry[1:] for entry in _SUBRESOURCES if entry[0] == version]
    found += [
        {"name": name, "singularName": "", "namespaced": True, "kind": kind, "verbs": _VERBS}
        | ({"group": "policy", "version": "v1"} if kind == "Eviction" else {})
        for name, kind in more
    ]
    if version == "apps/v1":
        found += [
            {
                "name": f"{plural}/scale",
                "singularName": "",
                "namespaced": True,
                "kind": "Scale",
                "group": "autoscaling",
                "version": "v1",
                "verbs": ["get", "patch", "update"],
            }
            for plural in _SCALED
        ]
    return found


def _openapi(version: str) -> Object:
    """Return a description that tells kubectl to leave the check of fields to the server."""
    group, _, number = version.rpartition("/")
    prefix = "/api/v1" if version == "v1" else f"/apis/{version}"
    paths = {}
    for entry in _KINDS:
        if entry[0] == version:
            place = "/namespaces/{namespace}" if entry[4] else ""
            kind = {"group": group, "version": number or version, "kind": entry[2]}
            paths[f"{prefix}{place}/{entry[1]}/{{name}}"] = {
                "patch": {
                    "x-kubernetes-group-version-kind": kind,
                    "parameters": [{"name": "fieldValidation", "in": "query"}],
                }
            }
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "1"}, "paths": paths}


@contextmanager
def api_server(directory: Path) -> Iterator[Cluster]:
    """Serve an empty cluster for the block; its kubeconfig is in the directory."""
    cluster = Cluster(directory / "kubeconfig")
    handler = type("Handler", (_Handler,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    cluster.config.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": "here"}}],
                "clusters": [
                    {
                        "name": "here",
                        "cluster": {"server": f"http://127.0.0.1:{server.server_port}"},
                    }
                ],
                "users": [{"name": "here", "user": {}}],
            }
        )
    )
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
