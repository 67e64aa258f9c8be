"""Command: `cascadia config check` shows the settings in force, and where each of them is from."""

import argparse
from typing import Any

from node.cli.show import VALUE_CHARACTERS_MAX, print_document
from node.config import Config
from node.exits import Exit
from node.hwbind.tpm import check_tcti
from node.text import shown


def check(config: Config, args: argparse.Namespace) -> int:
    """Print the settings. `args.sources` has their sources. Raises TctiRefused."""
    check_tcti(config.tpm, config.mode)
    print_document(document_of(config, args.sources), args.json, human)
    return int(Exit.OK)


def document_of(config: Config, sources: dict[str, str]) -> dict[str, Any]:
    """The document: each setting with its value and its source. A setting without a value is null."""
    values = {name: getattr(config, name) for name in config.__struct_fields__}
    return {
        "format": 1,
        "settings": {
            name: {"value": value if value is None or isinstance(value, int) else str(value), "source": sources[name]}
            for name, value in values.items()
        },
    }


def human(document: dict[str, Any]) -> str:
    """The document as text, one setting a line."""
    rows = ((name, each["value"], each["source"]) for name, each in document["settings"].items())
    return "\n".join(
        shown(f"{name:<20} {'none' if value is None else value}  ({source})", VALUE_CHARACTERS_MAX)
        for name, value, source in rows
    )
