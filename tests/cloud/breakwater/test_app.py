"""`cloud.breakwater.app`: opens Breakwater, serves listeners and tasks, and writes the last audit rows at the end."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from cloud.breakwater.app import breakwater_unit, opened
from cloud.breakwater.bootstrap import initialise
from cloud.breakwater.settings import BreakwaterSettings
from cloud.clock import utc_now
from cloud.contracts.breakwater import PATH_DEVICE, PATH_OPEN
from cloud.contracts.events import PATH_CHANGES, Changes
from cloud.crypto.keyfile import write_secret
from cloud.mtls.client import ProblemAnswer
from cloud.process.serve import task_name
from cloud.process.settings import load_settings
from cloud.storage import Statement, StorageError
from protocol.messages.sessions import Certificate
from tests.cloud.breakwater.live import live_at
from tests.cloud.breakwater.support import PASSPHRASE, ask, load, new_key, opening, plan_for

pytestmark = pytest.mark.slow

_DEVICES = Statement("SELECT serial FROM certificate WHERE profile = 'device' ORDER BY serial LIMIT 100")
_USES = Statement("SELECT object, detail FROM audit WHERE action = 'authority.use' LIMIT 100")


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Path, Path]:
    """Two new installations."""
    found = (tmp_path / "one", tmp_path / "two")
    for directory in found:
        directory.mkdir()
        write_secret(directory / "passphrase", PASSPHRASE)
        asyncio.run(initialise(plan_for(directory), utc_now))
    return found


async def test_two_breakwaters_in_one_process_see_only_their_own(homes: tuple[Path, Path]) -> None:
    asked = ask(new_key(), not_after=utc_now() + timedelta(days=90))
    async with live_at(homes[0]) as one, live_at(homes[1]) as two, one.fabric() as first, two.fabric() as second:
        await first.call("POST", PATH_OPEN, opening())
        with pytest.raises(ProblemAnswer) as closed:
            (await second.call("POST", PATH_DEVICE, asked)).into(Certificate)
        assert closed.value.problem.code == "generation_closed"
        await second.call("POST", PATH_OPEN, opening())
        issued = await asyncio.gather(*(client.call("POST", PATH_DEVICE, asked) for client in (first, second)))
        serials = [load(each.into(Certificate).certificate_chain[0]).serial_number for each in issued]
        assert serials[0] != serials[1]
        for live, serial in zip((one, two), serials, strict=True):
            assert [row["serial"] for row in await live.fetch(_DEVICES)] == [f"{serial:040x}"]
        await two.running.parts.service_certificates.revoke_all("operator/anna", "ledger", "superseded")
        await two.running.parts.service_certificates.revoke_all("operator/anna", "breakwater", "superseded")
        for live in (one, two):
            await live.running.parts.events.sequencer.run_once()
        feeds = [(await client.call("GET", PATH_CHANGES)).into(Changes) for client in (first, second)]
        of_services = [[event for event in feed.events if "service_certificate" in event.type] for feed in feeds]
        assert list(map(len, of_services)) == [0, 1]


async def test_the_last_rows_are_written_and_everything_is_closed_at_the_end(homes: tuple[Path, Path]) -> None:
    settings = load_settings(homes[0] / "breakwater" / "settings.toml", BreakwaterSettings)
    async with opened(settings) as running:
        parts = running.parts
        await parts.ocsp_responder.run_once()
        assert parts.authorities.can_sign("nodes-1")
    with pytest.raises(StorageError):
        await parts.stores.issuance.ping()
    async with opened(settings) as again:
        uses = {row["object"]: row["detail"] for row in await again.parts.stores.engine.fetch(_USES)}
    assert uses == {"nodes-1": "1 signatures", "services-1": "1 signatures"}


async def test_the_unit_yields_both_listeners_and_every_background_task(homes: tuple[Path, Path]) -> None:
    unit = breakwater_unit(homes[0] / "breakwater" / "settings.toml")
    assert unit.name == "breakwater"
    async with unit.open() as served:
        assert [(listener.tls is not None, listener.posts) for listener in served.listeners] == [
            (True, ()),
            (False, ("/ocsp",)),
        ]
        assert [task_name(task) for task in served.tasks] == [
            "IdentityRenewal.run",
            "OwnIdentity.publish_issuer",
            "EventSeeding.run",
            "CrlPublisher.run",
            "Doorbell.run",
            "OcspResponder.run",
            "refusals",
            "authorities",
            "sweep",
            "usage",
            "purge",
            "root CRLs",
            "Sequencer.run",
            "ChangeFeed.close_at_stop",
            "events purge",
        ]
