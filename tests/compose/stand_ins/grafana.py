#!/usr/bin/env python3
"""Grafana's place in the stack: reads what Grafana is provisioned with and tells what is wrong.

`/api/health` is answered 200 while nothing is, `/report` with all that was found. Grafana itself
cannot be had where the tests run.
"""

import json
import os
import re
import signal
import tempfile
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

PROVISIONING = Path(os.environ.get("GF_PATHS_PROVISIONING", "/etc/grafana/provisioning"))
DATA = Path("/var/lib/grafana")
PORT = 3000
# Grafana's own; every installation has them.
BUILT_IN = {"grafana", "-- Grafana --", "-- Mixed --", "-- Dashboard --"}
READY_PATHS = {"prometheus": "/-/ready", "alertmanager": "/-/ready"}


def provisioned(kind: str) -> Iterator[dict[str, Any]]:
    """Yield the documents of a kind with the environment filled in; KeyError where it lacks one."""
    for path in sorted((PROVISIONING / kind).glob("*.y*ml")):
        text = "\n".join(
            line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")
        )
        filled = re.sub(
            r"\$(?:\{(\w+)\}|(\w+))", lambda found: os.environ[found[1] or found[2]], text
        )
        yield yaml.safe_load(filled)


def references(document: object) -> Iterator[str]:
    """Yield the uid of every data source that a dashboard's JSON names."""
    if isinstance(document, dict):
        source = document.get("datasource")
        if isinstance(source, dict) and "uid" in source:
            yield str(source["uid"])
        for value in document.values():
            yield from references(value)
    elif isinstance(document, list):
        for value in document:
            yield from references(value)


def report() -> dict[str, Any]:
    """Return the data sources, the dashboards, who this is, and every fault."""
    faults: list[str] = []
    sources = {}
    for document in provisioned("datasources"):
        for source in document["datasources"]:
            if source["uid"] in sources:
                faults.append(f"two data sources have the uid {source['uid']}")
            sources[source["uid"]] = source["url"]
            try:
                urllib.request.urlopen(
                    source["url"] + READY_PATHS[source["type"]], timeout=5
                ).close()
            except (OSError, KeyError) as error:
                faults.append(f"data source {source['uid']} at {source['url']}: {error!r}")
    dashboards: dict[str, str] = {}
    paths = [
        path
        for document in provisioned("dashboards")
        for provider in document["providers"]
        for path in sorted(Path(provider["options"]["path"]).rglob("*.json"))
    ]
    texts = {path: path.read_text() for path in paths}
    for path, text in texts.items():
        dashboard = json.loads(text)
        uid = dashboard["uid"]
        if uid in dashboards:
            faults.append(f"two dashboards have the uid {uid}")
        dashboards[uid] = dashboard["title"]
        variables = {f"${{{one['name']}}}" for one in dashboard["templating"]["list"]}
        unknown = set(references(dashboard)) - sources.keys() - BUILT_IN - variables
        faults += [f"{path.name} names the data source {one}" for one in sorted(unknown)]
    for path, text in texts.items():
        linked = set(re.findall(r'"/d/([\w-]+)', text))
        faults += [f"{path.name} links to {uid}" for uid in sorted(linked - dashboards.keys())]
    home = os.environ.get("GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH")
    if home is not None and Path(home) not in texts:
        faults.append(f"the home dashboard {home} is none of the dashboards")
    try:
        tempfile.TemporaryFile(dir=DATA).close()
    except OSError as error:
        faults.append(f"{DATA}: {error}")
    return {"sources": sources, "dashboards": dashboards, "uid": os.getuid(), "faults": faults}


class Handler(BaseHTTPRequestHandler):
    """Answers as Grafana does where it is asked for its health."""

    def do_GET(self) -> None:
        try:
            found = report()
        except Exception as error:
            found = {"faults": [repr(error)]}
        known = self.path in ("/api/health", "/report")
        self.send_response((503 if found["faults"] else 200) if known else 404)
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())


if __name__ == "__main__":
    # As process 1 Python ends on a signal only where it says so.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    ThreadingHTTPServer(("0.0.0.0", PORT), Handler).serve_forever()
