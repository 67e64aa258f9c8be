"""Ids and times for the operators' commands, and a reader of their errors."""

import json
from datetime import timedelta
from pathlib import Path

from cloud.cli.published_trust import fetch
from tests.simulators.repository import START, Repository

TENANT = "ten_01jd8xk3v5e2r9qz7w4m6n8p0a"
NODE = "node_01jd8xk3v5e2r9qz7w4m6n8p0a"
CODE = "code_01jd8xk3v5e2r9qz7w4m6n8p0a"
TOKEN = "tok_01jd8xk3v5e2r9qz7w4m6n8p0a"

AT = "2026-11-22T12:00:00Z"


def error_of(printed: str) -> dict[str, object]:
    """Return the error that a command with `--json` printed."""
    error: dict[str, object] = json.loads(printed)["error"]
    return error


def fabric_url(repository: Repository, directory: Path, after: timedelta = timedelta(0)) -> str:
    """Return the URL of Fabric, as fetched `after` the start."""
    bundle, urls = fetch(repository.url, repository.pin, directory, lambda: START + after)
    assert bundle.trust_domain == "cascade.internal"
    return urls.fabric
