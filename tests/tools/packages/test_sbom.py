"""`tools.packages.sbom`: the list of parts of a package."""

import json
from importlib.metadata import distribution

from tools.packages import sbom
from tools.packages.libraries import Library

LICENCES = {"cryptography": "Apache-2.0 OR BSD-3-Clause", "trio": "MIT OR Apache-2.0"}
LIBRARIES = [Library(name, distribution(name), "ab" * 32) for name in LICENCES]


def test_the_document_lists_each_library_and_what_is_compiled_into_it() -> None:
    text = sbom.document("a.deb", "cd" * 32, "cascadia", "0.1.0-1", 1_796_000_000, LIBRARIES, LICENCES)
    assert sbom.listed(text) == {each.name: (each.installed.version, LICENCES[each.name]) for each in LIBRARIES}
    document = json.loads(text)
    assert document["metadata"]["timestamp"] == "2026-11-30T00:53:20Z"
    assert document["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": "cd" * 32}]
    cryptography, trio = document["components"]
    assert cryptography["purl"] == f"pkg:pypi/cryptography@{cryptography['version']}"
    assert "openssl" in {each["name"] for each in cryptography["components"]}
    assert "components" not in trio
    assert b"file:/" not in text


def test_the_document_depends_on_its_input_only() -> None:
    def made(digest: str) -> bytes:
        return sbom.document("a.deb", digest, "cascadia", "0.1.0-1", 1_796_000_000, LIBRARIES, LICENCES)

    assert made("cd" * 32) == made("cd" * 32)
    one, other = (json.loads(made(digest))["serialNumber"] for digest in ("cd" * 32, "ce" * 32))
    assert one != other
