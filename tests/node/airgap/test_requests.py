"""Requests: one is outstanding and shown again with the same bytes, and it has what the cloud needs."""

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from node.airgap.errors import NoChip, RequestOutstanding
from node.airgap.requests import (
    NothingToRefresh,
    activation_request,
    held_generation,
    recovery_request,
    refresh_request,
)
from node.airgap.store import AirgapStore, StoredRequest
from node.exchanges.recovery import Source, TrustNeeded
from node.hwbind import keys
from node.hwbind.tpm import Tpm
from node.licensing.licence import Licence
from protocol.airgap.code_proof import open_code_proof, proof_key
from protocol.airgap.forms import printed, qr_text, read_request
from protocol.airgap.request import REQUEST_LIFE, OpenedRequest, open_request
from protocol.airgap.text import qr_bytes_max
from protocol.messages.recovery import RecoveryClaim
from tests.node.airgap.conftest import Site, activation_file, install_trust
from tests.node.shells import apply, identity
from tests.simulators.carried_answers import Answerer
from tests.simulators.fabric import NODE, TENANT, Fabric, utc_now

pytestmark = pytest.mark.slow


async def licence_of(site: Site) -> Licence:
    licence = site.start()
    await licence.check_hardware()
    return licence


async def activation(site: Site, operators: Answerer, code: str = "", *, new: bool = False) -> StoredRequest:
    return await activation_request(site.state, site.tpm, activation_file(operators, code), utc_now, new=new)


def opened(stored: StoredRequest) -> OpenedRequest:
    return open_request(read_request(stored.file))


async def test_a_request_is_stored_and_shown_again_with_the_same_bytes(site: Site) -> None:
    first = await refresh_request(site.state, await licence_of(site), site.tpm)
    assert AirgapStore(site.directory).load().request == first
    assert AirgapStore(site.directory).path.stat().st_mode & 0o777 == 0o600
    assert await refresh_request(site.state, await licence_of(site), site.tpm) == first
    other = await refresh_request(site.state, await licence_of(site), site.tpm, new=True)
    assert other.outstanding.request != first.outstanding.request
    assert AirgapStore(site.directory).load().former == (first.outstanding.request,)


async def test_a_refresh_names_the_node_and_what_it_has(site: Site) -> None:
    licence = await licence_of(site)
    request = opened(await refresh_request(site.state, licence, site.tpm, development=True)).request
    trusted = licence.trust.value
    assert (request.kind, request.tenant, request.node, request.generation) == ("refresh", TENANT, NODE, 1)
    assert (request.presented, request.device_certificate) == (licence.presented, licence.identity.chain[0])
    assert (request.pin, request.trust_version, request.root_version) == (trusted.pin, trusted.version, 1)
    assert (request.code, request.endorsement, request.development) == ("", None, True)
    assert abs(request.made_at - utc_now()) < timedelta(seconds=10)
    assert request.clock.low <= request.clock.high
    assert request.clock.tpm


async def test_a_refresh_fits_into_a_qr_code(site: Site) -> None:
    file = read_request((await refresh_request(site.state, await licence_of(site), site.tpm)).file)
    assert len(qr_text(file)) * 5 // 8 <= qr_bytes_max("REQUEST")
    assert len(printed(file).splitlines()) < 100


async def test_a_request_that_has_expired_is_replaced(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await refresh_request(site.state, await licence_of(site), site.tpm)
    licence = await licence_of(site)
    monkeypatch.setattr(site.state.time, "high", lambda: first.made_at + REQUEST_LIFE)
    other = await refresh_request(site.state, licence, site.tpm)
    assert other.outstanding.request != first.outstanding.request


async def test_an_activation_names_the_chip_and_no_fingerprint(empty: Site, operators: Answerer) -> None:
    stored = await activation(empty, operators)
    found = opened(stored)
    assert stored.activation
    assert (found.request.kind, found.request.fingerprint, found.request.held_generation) == ("activate", {}, 0)
    assert (found.request.trust_version, found.request.root_version) == (0, 0)
    assert found.file.key
    assert found.file.pcr_quote
    assert await activation(empty, operators) == stored
    assert held_generation(empty.state) == 0


async def test_another_kind_or_file_needs_the_word_new(site: Site, operators: Answerer) -> None:
    await refresh_request(site.state, await licence_of(site), site.tpm)
    with pytest.raises(RequestOutstanding, match="of the kind refresh is outstanding"):
        await activation(site, operators)
    first = await activation(site, operators, new=True)
    assert (opened(first).request.root_version, first.generation) == (1, 1)
    with pytest.raises(RequestOutstanding, match="for another activation file"):
        await activation(site, operators, "cac_11111111111111111111111111111111111111")
    licence = await licence_of(site)
    with pytest.raises(RequestOutstanding, match="of the kind activate is outstanding"):
        await refresh_request(site.state, licence, site.tpm)


async def test_a_later_activation_makes_the_request_of_an_earlier_one_void(
    site: Site, operators: Answerer, quiet: Fabric
) -> None:
    await activation(site, operators)
    licence = await licence_of(site)
    licence._identity = msgspec.structs.replace(licence.identity, generation=2)
    assert (await refresh_request(site.state, licence, site.tpm)).outstanding.kind == "refresh"


async def test_a_node_without_a_tpm_asks_and_imports(tmp_path: Path, operators: Answerer, quiet: Fabric) -> None:
    site = Site(tmp_path / "software", Tpm("none"))
    install_trust(site.directory, operators, tmp_path / "scratch")
    site.state.identities.save_generation(identity(quiet, keys.NO_KEY, keys.create_software_key()))
    site.state.identities.switch_to(1)
    quiet.confirmed = 1
    quiet.lease_fields = {"tier": "software"}
    quiet.say(quiet.lease())
    apply(site.start(), quiet, quiet.statement)
    stored = await refresh_request(site.state, await licence_of(site), site.tpm)
    assert (opened(stored).request.clock.tpm, opened(stored).file.pcr_quote) == (msgspec.UNSET, msgspec.UNSET)
    quiet.say(quiet.suspension())
    licence = await site.receive(operators.answer(stored.file))
    assert licence.verdict().state == "suspended"


async def test_without_a_tpm_or_a_generation_there_is_no_request(empty: Site, site: Site, operators: Answerer) -> None:
    empty.tpm = Tpm("none")
    with pytest.raises(NoChip, match="needs a connection to the cloud"):
        await activation(empty, operators)
    assert not AirgapStore(empty.directory).path.exists()
    licence = await licence_of(site)
    licence._confirmed = False
    with pytest.raises(NothingToRefresh):
        await refresh_request(site.state, licence, site.tpm)


async def test_a_recovery_says_which_node_the_machine_was(site: Site, operators: Answerer, quiet: Fabric) -> None:
    """The published trust in the state directory names the cloud."""
    licence = await licence_of(site)
    claim = RecoveryClaim(node=NODE, statement=licence.presented, situation="tpm-cleared")
    stored = await recovery_request(site.state, site.tpm, claim, utc_now, code="0" * 24)
    request = opened(stored).request
    assert (request.kind, request.recovery) == ("recover", claim)
    assert b"0" * 24 not in stored.file
    assert open_code_proof(request.code, request.request, request.public_key) == proof_key("0" * 24)
    assert (request.held_generation, request.root_version) == (1, 1)
    assert await recovery_request(site.state, site.tpm, claim, utc_now, code="0" * 24) == stored
    with pytest.raises(RequestOutstanding, match="for another recovery code or node"):
        await recovery_request(site.state, site.tpm, claim, utc_now, code="1" * 24)
    recovered = await site.receive(operators.answer(stored.file))
    assert (recovered.identity.generation, recovered.verdict().state) == (2, "active")


async def test_a_recovery_without_trust_needs_a_file(empty: Site, operators: Answerer) -> None:
    claim = RecoveryClaim(situation="reinstalled")
    with pytest.raises(TrustNeeded):
        await recovery_request(empty.state, empty.tpm, claim, utc_now)
    file, _ = activation_file(operators)
    source = Source(file.repository_url, file.pin, file.created_at)
    stored = await recovery_request(empty.state, empty.tpm, claim, utc_now, source=source)
    assert (await empty.receive(operators.answer(stored.file))).verdict().state == "active"
