"""The bill of materials of an image, as CycloneDX 1.6 JSON: what is in it, at which version.

It lists the packages that the image's lock installs, with their licences, and the base image. A
scanner reads it without pulling the image.
"""

import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement

from images.bentos import ROOT, BentoSource, BuildOptions

FOLDER = ROOT / "reports" / "sbom"
_NAME_CHARACTERS = 100
# What an image runs on, for packages that only other systems need.
_IMAGE = {
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.0",
    "python_version": "3.11",
    "sys_platform": "linux",
}


def locked_packages(requirements: Path) -> Iterator[tuple[str, str]]:
    """Yield name and version of each package that a lock installs in an image."""
    for line in requirements.read_text().splitlines():
        text = line.partition("#")[0].partition(" --hash=")[0].strip(" \\")
        if not text or text.startswith("-"):
            continue
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(_IMAGE):
            (pin,) = requirement.specifier
            yield requirement.name, pin.version


def bill_of_materials(source: BentoSource, options: BuildOptions) -> str:
    """Return what is in a Bento's image."""
    tag = options.tag(source)
    name, _, version = tag.partition(":")
    image = Component(name=name, version=version, type=ComponentType.CONTAINER, bom_ref=tag)
    base = Component(
        name=options.base_image, type=ComponentType.CONTAINER, bom_ref=options.base_image
    )
    packages = [_component(*package) for package in locked_packages(source.requirements)]
    bom = Bom(components=[base, *packages])
    bom.metadata.component = image
    bom.register_dependency(image, [base, *packages])
    with warnings.catch_warnings():
        # The lock does not say which package needs which.
        warnings.simplefilter("ignore", UserWarning)
        return JsonV1Dot6(bom).output_as_string(indent=1)


def write(source: BentoSource, options: BuildOptions, folder: Path) -> Path:
    """Write an image's bill of materials and return where."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{options.tag(source).replace(':', '-')}.cdx.json"
    path.write_text(bill_of_materials(source, options) + "\n")
    return path


def _component(name: str, version: str) -> Component:
    url = PackageURL("pypi", None, name.lower(), version)
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        purl=url,
        bom_ref=str(url),
        licenses=[LicenseFactory().make_from_string(text) for text in _licences(name)],
    )


def _licences(name: str) -> list[str]:
    """Return what a package that is installed here says of its licence, as its SPDX expression."""
    try:
        found = metadata(name)
    except PackageNotFoundError:
        return []
    for expression in found.get_all("License-Expression") or []:
        return [str(expression)]
    classifiers = found.get_all("Classifier") or []
    names = [
        classifier.rpartition(" :: ")[2]
        for classifier in classifiers
        if classifier.startswith("License :: ") and classifier != "License :: OSI Approved"
    ]
    # An older field, in which some have the whole text of their licence.
    text = "".join(found.get_all("License") or [])
    return names or ([text] if text and len(text) < _NAME_CHARACTERS else [])
