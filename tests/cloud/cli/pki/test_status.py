"""`cascade pki status` and `check` of a new installation, as text and as JSON."""

import asyncio
import json
from argparse import Namespace
from datetime import timedelta
from typing import Any

import pytest

from cloud.breakwater.admin import opened
from cloud.cli.pki.status import status
from cloud.clock import utc_now
from tests.cloud.cli.pki.support import Host

pytestmark = pytest.mark.slow


def test_a_new_installation_is_shown_and_clean(new_host: Host) -> None:
    """After a minute without a CRL the shard of the services is a finding."""
    host = new_host
    status = host.pki("status")
    assert [(row["id"], row["state"], row["has_key"]) for row in status["authorities"]] == [
        ("nodes-1", "active", True),
        ("root-1", "active", False),
        ("services-1", "active", True),
    ]
    assert (status["crls"], status["crls_due"], status["secrets_open"]) == (1, 1, 0)
    assert "CN=cascade.internal nodes CA 1" in host.printed("status")
    report = host.pki("check", "--pkilint", "5")
    assert (report["certificates"], report["pkilint_certificates"], report["counts"]) == (2, 2, {})
    text = host.printed("check", "--pkilint", "5")
    assert "Clean" in text
    assert "Waived 2 times: pkix.invalid_uri_syntax" in text


def status_at(host: Host, capsys: pytest.CaptureFixture[str], shift: timedelta, *, as_json: bool = True) -> str:
    """The output of `cascade pki status` on a host whose clock is shifted."""

    async def run() -> None:
        settings = host.directory / "breakwater" / "settings.toml"
        async with opened(settings, lambda: utc_now() + shift) as admin:
            await status(admin, Namespace(dir=host.directory, json=as_json))

    capsys.readouterr()
    asyncio.run(run())
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("shift", "subjects", "text"),
    [
        (timedelta(0), [], ""),
        (
            timedelta(hours=-1),
            ["nodes-1", "root-1", "services-1", "breakwater", "fabric"],
            "is not valid before",
        ),
        (timedelta(days=8), ["breakwater", "fabric"], "has expired at"),
    ],
)
def test_certificates_that_are_not_valid_now_are_named_with_the_next_step(
    host: Host, capsys: pytest.CaptureFixture[str], shift: timedelta, subjects: list[str], text: str
) -> None:
    shown: dict[str, Any] = json.loads(status_at(host, capsys, shift))
    assert [fault["subject"] for fault in shown["faults"]] == subjects
    assert all(fault["fault"].startswith(text) for fault in shown["faults"])
    steps = {fault["subject"]: fault["next_step"] for fault in shown["faults"]}
    if subjects:
        assert "cascade pki renew fabric" in steps["fabric"]
        assert f"The certificate of fabric {text}" in status_at(host, capsys, shift, as_json=False)
    if "nodes-1" in subjects:
        assert "cascade pki rotate request nodes" in steps["nodes-1"]
