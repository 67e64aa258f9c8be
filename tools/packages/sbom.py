"""Pure functions: the list of parts of a package (SBOM), as CycloneDX 1.5 in JSON.

A library that was compiled from other sources says so in SBOMs of its wheel (PEP 770). They become parts of that part:
so the OpenSSL within cryptography is listed, with its version.
"""

import json
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from tools.packages.libraries import Library

_KEPT = ("type", "name", "version", "purl", "hashes", "licenses")
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:cascade:packages")


def document(
    file: str,
    sha256: str,
    name: str,
    version: str,
    epoch: int,
    libraries: Iterable[Library],
    licences: Mapping[str, str],
) -> bytes:
    """The SBOM of a package: of its file, with its SHA-256 (hex), and each library with that of its own file."""
    made = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{file} {sha256}')}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "application",
                "name": name,
                "version": version,
                "licenses": [{"expression": "Apache-2.0"}],
                "hashes": [{"alg": "SHA-256", "content": sha256}],
                "properties": [{"name": "cascade:file", "value": file}],
            },
        },
        "components": [_component(library, licences[library.name]) for library in libraries],
    }
    return json.dumps(made, indent=1, sort_keys=True).encode() + b"\n"


def _component(library: Library, licence: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": "library",
        "name": library.name,
        "version": library.installed.version,
        "purl": f"pkg:pypi/{library.name}@{library.installed.version}",
        "hashes": [{"alg": "SHA-256", "content": library.sha256}],
        "licenses": [{"expression": licence}],
    }
    if inside := compiled_in(library):
        made["components"] = inside
    return made


def compiled_in(library: Library) -> list[dict[str, Any]]:
    """The parts of a library by the SBOMs of its wheel, sorted. Paths of the machine that built it are left out."""
    found = {}
    for source, path in library.files():
        if ".dist-info/sboms/" in path and path.endswith(".json"):
            for each in json.loads(source.read_text("utf-8")).get("components", []):
                kept = {key: each[key] for key in _KEPT if key in each}
                if "purl" in kept:
                    kept["purl"] = kept["purl"].partition("?")[0]
                found[kept["name"], kept.get("version", "")] = kept
    return [found[key] for key in sorted(found)]


def listed(text: bytes) -> dict[str, tuple[str, str]]:
    """The libraries of an SBOM of ours: name -> version and licence."""
    return {
        each["name"]: (each["version"], each["licenses"][0]["expression"]) for each in json.loads(text)["components"]
    }
