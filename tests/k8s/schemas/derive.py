"""Writes prometheus_operator.json, the schemas of the operator's two kinds that we make.

    npm pack @kubernetes-models/prometheus-operator@6.0.0 && tar xzf kubernetes-models-*.tgz
    python tests/k8s/schemas/derive.py package

The package (MIT) is made from the operator's own Go types; its declarations give the fields,
their types and choices, its validators the patterns. Fields that the operator does not know are
refused, as `kubectl apply --validate=strict` refuses them.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

KINDS = ("ServiceMonitor", "PrometheusRule")
VERSION = "v1"
OUTPUT = Path(__file__).with_name("prometheus_operator.json")

_OURS = "IComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoringV1"
_VALIDATORS = "ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoringV1"
_FIELD = re.compile(r'^    "([^"]+)"(\?)?: (.+?);(?=\n    "|\Z)', re.DOTALL | re.MULTILINE)
_STRINGS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}


def _object(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


_KEY_SELECTOR = _object(
    ("key",), key={"type": "string"}, name={"type": "string"}, optional={"type": "boolean"}
)
# Types of Kubernetes itself, which the package takes from elsewhere.
_KUBERNETES: dict[str, dict[str, Any]] = {
    "IIoK8sApimachineryPkgApisMetaV1ObjectMeta": {"type": "object"},
    "IIoK8sApimachineryPkgApisMetaV1LabelSelector": _object(
        (),
        matchLabels=_STRINGS,
        matchExpressions={
            "type": "array",
            "items": _object(
                ("key", "operator"),
                key={"type": "string"},
                operator={"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                values={"type": "array", "items": {"type": "string"}},
            ),
        },
    ),
    "IIoK8sApimachineryPkgApisMetaV1Condition": {"type": "object"},
    "IIoK8sApimachineryPkgApisMetaV1Time": {"type": "string"},
    "IIoK8sApimachineryPkgUtilIntstrIntOrString": {"type": ["integer", "string"]},
    "IIoK8sApimachineryPkgApiResourceQuantity": {"type": ["number", "string"]},
    "IIoK8sApiCoreV1SecretKeySelector": _KEY_SELECTOR,
    "IIoK8sApiCoreV1ConfigMapKeySelector": _KEY_SELECTOR,
}
_SIMPLE: dict[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
}


class Deriver:
    """Reads declarations of one API version and follows their references."""

    def __init__(self, package: Path) -> None:
        self._declarations = package / "monitoring.coreos.com" / VERSION
        self._validators = package / "_schemas"
        self.definitions: dict[str, Any] = {}

    def define(self, name: str) -> None:
        """Add a type, and all it refers to, to the definitions."""
        if name in self.definitions:
            return
        self.definitions[name] = {}
        source = (self._declarations / f"{name}.d.ts").read_text()
        source = re.sub(r" */\*.*?\*/\n", "", source, flags=re.DOTALL)
        alias = re.search(rf"export type I{name} = ([^;]+);", source)
        if alias:
            schema = self._type(alias[1].strip())
            if schema.get("type") == "string" and (pattern := self._pattern(name)):
                schema = schema | {"pattern": pattern}
            self.definitions[name] = schema
            return
        header = re.search(
            rf"export interface I{name}( extends ([^{{]+))? \{{\n(.*?)^\}}",
            source,
            re.DOTALL | re.MULTILINE,
        )
        if header is None:
            raise SystemExit(f"{name}: neither an alias nor an interface")
        properties, required = self._properties(header[3].rstrip())
        for parent in filter(None, (part.strip() for part in (header[2] or "").split(","))):
            if parent != "TypeMeta":
                self.define(parent.removeprefix(_OURS))
                inherited = self.definitions[parent.removeprefix(_OURS)]
                properties = inherited["properties"] | properties
                required = sorted({*inherited["required"], *required})
        self.definitions[name] = _object(tuple(required), **properties)

    def _properties(self, body: str) -> tuple[dict[str, Any], list[str]]:
        properties, required = {}, []
        for field in _FIELD.finditer(body):
            properties[field[1]] = self._type(" ".join(field[3].split()))
            if not field[2]:
                required.append(field[1])
        return properties, required

    def _type(self, text: str) -> dict[str, Any]:
        if text in _SIMPLE:
            return _SIMPLE[text]
        if text in _KUBERNETES:
            return _KUBERNETES[text]
        if text.startswith('"'):
            return {"enum": [json.loads(choice) for choice in text.split(" | ")]}
        if text.startswith("Array<"):
            return {"type": "array", "items": self._type(text[len("Array<") : -1])}
        if mapping := re.fullmatch(r"\{ \[key: string\]: (.+); \}", text):
            return {"type": "object", "additionalProperties": self._type(mapping[1])}
        if text.startswith(_OURS):
            self.define(text.removeprefix(_OURS))
            return {"$ref": f"#/definitions/{text.removeprefix(_OURS)}"}
        raise SystemExit(f"a type this script does not know: {text}")

    def _pattern(self, name: str) -> str | None:
        found = re.search(r'params:\{pattern:("(?:[^"\\]|\\.)*")\}', self._validator(name))
        return str(json.loads(found[1])) if found else None

    def _validator(self, name: str) -> str:
        return (self._validators / f"{_VALIDATORS}{name}.js").read_text()


def main() -> int:
    """Derive the schemas from an unpacked package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path)
    package: Path = parser.parse_args().package
    deriver = Deriver(package)
    for kind in KINDS:
        deriver.define(kind)
    about = json.loads((package / "package.json").read_text())
    head = {
        "$comment": "From {name} {version}, under the license below.".format(**about),
        "license": (package / "LICENSE").read_text().splitlines(),
    }
    # A line for each definition: nobody reads them, but a diff shows which have changed.
    definitions = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(schema)}"
        for name, schema in sorted(deriver.definitions.items())
    )
    opening = json.dumps(head, indent=0).removesuffix("\n}")
    OUTPUT.write_text(f'{opening},\n"definitions": {{\n{definitions}\n}}\n}}\n')
    return 0


if __name__ == "__main__":
    sys.exit(main())
