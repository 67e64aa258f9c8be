"""Pure functions: the documents of a package: copyright with every licence, and the changelog."""

import gzip
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime

from tools.packages import sbom
from tools.packages.libraries import Library
from tools.packages.targets import Package, Target

APACHE = "/usr/share/common-licenses/Apache-2.0"
"""Where Debian keeps this text for all packages."""

_LICENCE_FILE = re.compile(r"(?i)(^|/)(licen[cs]e|copying|notice|authors)[^/]*$")
_VERSION_LINE = re.compile(r"(?m)^## \[([^\]]+)\](?: - (\d{4}-\d{2}-\d{2}))?\n")


def licence_texts(library: Library) -> dict[str, str]:
    """The texts of a library's licences, by the path of the file within its metadata."""
    return {
        path.partition("/")[2]: source.read_text("utf-8", errors="replace")
        for source, path in library.files()
        if path.partition("/")[0].endswith(".dist-info") and _LICENCE_FILE.search(path)
    }


def copyright_file(
    package: Package, target: Target, licence: str, libraries: Iterable[Library], licences: Mapping[str, str]
) -> str:
    """The copyright file: which licence each shipped library has, then every text. `licence` is Cascade's own text.

    On Debian the text of Apache-2.0 is a reference to the system's copy, as Debian asks.
    """

    def body(text: str) -> str:
        whole_apache = "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION" in text
        if target.packager == "deb" and whole_apache:
            return f"Licensed under the Apache License, Version 2.0. On Debian its text is in {APACHE}.\n"
        return text

    shipped = list(libraries)
    parts = [
        f"The package {package.name} has Cascade, under Apache-2.0, and these libraries in /{package.library}:\n\n",
        *(f"  {each.name} {each.installed.version}: {licences[each.name]}\n" for each in shipped),
        *_compiled_in(shipped),
        _titled("Cascade", body(licence)),
    ]
    for library in shipped:
        for path, text in licence_texts(library).items():
            parts.append(_titled(f"{library.name} {library.installed.version}, {path}", body(text)))
    return "".join(parts)


def _compiled_in(shipped: Iterable[Library]) -> Iterator[str]:
    """The parts that libraries were compiled from, as the SBOMs of their wheels name them."""
    for library in shipped:
        parts = sbom.compiled_in(library)
        if parts:
            yield f"\nCompiled into {library.name}, by the list of its maker:\n\n"
        for part in parts:
            named = [each.get("expression") or each["license"].get("id", "") for each in part.get("licenses", [])]
            yield f"  {part['name']} {part.get('version', '')}: {', '.join(named) or 'see its texts below'}\n"


def _titled(title: str, text: str) -> str:
    rule = "-" * 76
    return f"\n{rule}\n{title}\n{rule}\n\n{text.strip()}\n"


def changelog(page: str, version: str, package: Package, target: Target, maintainer: str, epoch: int) -> bytes:
    """Debian's changelog of a package, compressed, made from the project's page of changes (Keep a Changelog)."""
    found = list(_VERSION_LINE.finditer(page))
    entries: list[str] = []
    for match, following in zip(found, [*found[1:], None], strict=True):
        points = re.findall(r"(?m)^- (.+(?:\n  .+)*)", page[match.end() : following.start() if following else None])
        day = datetime.fromisoformat(match[2]).replace(tzinfo=UTC) if match[2] else datetime.fromtimestamp(epoch, UTC)
        name = version if match[1] == "Unreleased" else match[1]
        if points:
            entries.append(_entry(package, target, name, points, maintainer, day))
    return gzip.compress("\n".join(entries).encode(), compresslevel=9, mtime=0)


def _entry(
    package: Package, target: Target, version: str, points: Iterable[str], maintainer: str, released: datetime
) -> str:
    lines = "\n".join(
        textwrap.fill(" ".join(point.split()), 79, initial_indent="  * ", subsequent_indent="    ") for point in points
    )
    head = f"{package.name} ({version}-{target.revision}) {target.suite}; urgency=medium"
    return f"{head}\n\n{lines}\n\n -- {maintainer}  {format_datetime(released)}\n"
