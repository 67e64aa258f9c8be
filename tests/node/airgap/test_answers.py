"""Answers: refresh, suspension, resume, revocation, rotation and first activation, and each misuse by its name."""

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from node.airgap.answers import Imports
from node.airgap.errors import AgentInTheWay, AirgapRefused
from node.airgap.requests import activation_request, refresh_request
from node.airgap.store import AirgapStore
from node.errors import NodeError
from node.exits import Exit
from node.licensing.licence import Licence, StatementRejected
from node.link.certificates import CertificateRejected
from node.trust.errors import TrustError, TrustOlder
from protocol.airgap.forms import printed, read_answer, read_request, to_file
from protocol.airgap.request import open_request
from protocol.endorsement import TEMPLATES
from tests.node.airgap.conftest import Site, activation_file
from tests.simulators.carried_answers import SALT, Answerer, sealed
from tests.simulators.fabric import Fabric, utc_now

pytestmark = pytest.mark.slow


def content(directory: Path) -> dict[str, bytes]:
    """Every file of a state directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


async def ask(site: Site, *, new: bool = False) -> bytes:
    licence = site.start()
    await licence.check_hardware()
    return (await refresh_request(site.state, licence, site.tpm, new=new)).file


async def ask_activation(site: Site, operators: Answerer) -> bytes:
    stored = await activation_request(site.state, site.tpm, activation_file(operators), utc_now)
    return stored.file


async def refused(site: Site, data: bytes, code: str) -> NodeError:
    """The refusal of an answer, which has changed nothing."""
    before = content(site.directory)
    with pytest.raises(NodeError) as caught:
        await site.receive(data)
    assert caught.value.code == code
    assert content(site.directory) == before
    return caught.value


def verdict(licence: Licence) -> tuple[str, bool]:
    found = licence.verdict()
    return found.state, found.gate_open


async def test_a_standing_changes_by_carried_answers(site: Site, operators: Answerer, quiet: Fabric) -> None:
    quiet.say(quiet.lease(entitlements=("new",)))
    licence = await site.receive(operators.answer(await ask(site)))
    assert licence.lease is not None
    assert (licence.lease.entitlements, verdict(licence)) == (("new",), ("active", True))
    quiet.say(quiet.suspension())
    assert verdict(await site.receive(operators.answer(await ask(site)))) == ("suspended", False)
    quiet.say(quiet.lease())
    assert verdict(await site.receive(operators.answer(await ask(site)))) == ("active", True)
    quiet.revoke()
    assert verdict(await site.receive(operators.answer(await ask(site)))) == ("revoked", False)
    assert verdict(site.start()) == ("revoked", False)
    receipts = [opened.request.receipt for opened in operators.received]
    assert receipts[0] is None
    assert [receipt.request for receipt in receipts[1:] if receipt] == [
        opened.request.request for opened in operators.received[:-1]
    ]


async def test_each_form_is_imported(site: Site, operators: Answerer) -> None:
    answer = operators.answer(printed(read_request(await ask(site))).encode())
    await site.receive(printed(read_answer(answer)).lower().encode())


async def test_a_damaged_line_is_named_and_changes_nothing(site: Site, operators: Answerer) -> None:
    rows = printed(read_answer(operators.answer(await ask(site)))).splitlines()
    rows[7] = rows[7].replace(rows[7][10], "Z" if rows[7][10] != "Z" else "Y", 1)
    error = await refused(site, "\n".join(rows).encode(), "airgap_damaged")
    assert "line 7 is mistyped" in error.text
    assert error.exit == Exit.VERIFICATION


async def test_an_answer_is_used_once(site: Site, operators: Answerer) -> None:
    answer = operators.answer(await ask(site))
    await site.receive(answer)
    assert "imported before" in (await refused(site, answer, "airgap_answer_used")).text
    await ask(site)
    await refused(site, answer, "airgap_answer_used")


async def test_an_answer_to_an_abandoned_request_is_outdated(site: Site, operators: Answerer) -> None:
    answer = operators.answer(await ask(site))
    later = await ask(site, new=True)
    await refused(site, answer, "airgap_answer_outdated")
    await site.receive(operators.answer(later))
    await refused(site, answer, "airgap_answer_outdated")


async def test_an_answer_to_another_machine_is_refused(site: Site, empty: Site, operators: Answerer) -> None:
    answer = operators.answer(await ask(site))
    await refused(empty, answer, "airgap_nothing_requested")
    await ask_activation(empty, operators)
    error = await refused(empty, answer, "airgap_answer_for_other")
    assert "on the machine that made the request" in error.next


async def test_an_expired_answer_is_refused(site: Site, operators: Answerer) -> None:
    late = utc_now() - timedelta(hours=2)
    operators.claims = {"valid_until": late}
    # The first floor of this machine's time is not after the answer, so the signed time of another answer moves it.
    data = await ask(site)
    answer = operators.answer(data)
    site.start()
    licence = site.start()
    licence.time.passed(utc_now() - timedelta(minutes=30))
    with pytest.raises(AirgapRefused) as caught:
        await site.imports().into(licence, answer)
    assert caught.value.code == "airgap_answer_expired"
    assert "cascadia request --new" in caught.value.next


@pytest.mark.parametrize("part", ["body", "signature"])
async def test_a_changed_answer_is_refused(site: Site, operators: Answerer, part: str) -> None:
    file = read_answer(operators.answer(await ask(site)))
    changed = getattr(file, part)
    at = len(changed) - 20
    altered = changed[:at] + ("A" if changed[at] != "A" else "B") + changed[at + 1 :]
    await refused(site, to_file(msgspec.structs.replace(file, **{part: altered})), "airgap_answer_unverified")


async def test_a_renewed_device_certificate_is_stored(site: Site, operators: Answerer, quiet: Fabric) -> None:
    before = site.start().identity.chain
    operators.renews = True
    licence = await site.receive(operators.answer(await ask(site)))
    assert licence.identity.chain != before
    assert site.start().identity.chain == licence.identity.chain
    # A certificate of another CA is refused, and nothing of the answer counts.
    quiet.nodes = Fabric().nodes
    quiet.say(quiet.suspension())
    operators.carries_trust = False
    await refused(site, operators.answer(await ask(site)), CertificateRejected.code)
    assert site.start().verdict().state == "active"


async def test_an_answer_about_another_generation_is_refused(site: Site, operators: Answerer, quiet: Fabric) -> None:
    data = await ask(site)
    quiet.confirmed = 7
    error = await refused(site, operators.answer(data), "airgap_answer_unverified")
    assert "generation 7" in error.text


async def test_an_answer_whose_signature_cannot_be_read_is_refused(site: Site, operators: Answerer) -> None:
    file = read_answer(operators.answer(await ask(site)))
    for signature in ("", "a.b.c"):
        changed = to_file(msgspec.structs.replace(file, signature=signature))
        await refused(site, changed, "airgap_answer_unverified")


async def test_a_first_activation_needs_the_published_trust(empty: Site, operators: Answerer) -> None:
    operators.carries_trust = False
    error = await refused(empty, operators.answer(await ask_activation(empty, operators)), "airgap_answer_unverified")
    assert "no published trust" in error.text


async def test_another_cloud_is_refused(site: Site, operators: Answerer) -> None:
    other = Answerer(Fabric())
    other.fabric.confirmed = 1
    other.fabric.say(other.fabric.lease())
    data = await ask(site)
    with pytest.raises(TrustError):
        await site.receive(other.answer(data))
    other.carries_trust = False
    error = await refused(site, other.answer(data), "airgap_answer_unverified")
    assert "not published" in error.text


async def test_a_root_rotation_that_was_slept_through_is_carried(
    site: Site, operators: Answerer, quiet: Fabric
) -> None:
    """The signing keys changed, and the answer has the targets that name the new ones."""
    quiet.keys = dict(Fabric().keys)
    operators.repository.replace(operators.targets(), utc_now())
    before = site.start().trust.value.version
    quiet.say(quiet.lease())
    licence = await site.receive(operators.answer(await ask(site)))
    assert (verdict(licence), licence.trust.value.version) == (("active", True), before + 1)
    assert site.start().trust.value.version == before + 1


async def test_an_answer_may_travel_longer_than_the_timestamp_of_its_trust_lives(
    site: Site, operators: Answerer
) -> None:
    operators.repository.replace(operators.targets(), utc_now())
    answer = operators.answer(await ask(site))
    licence = site.start()
    await licence.check_hardware()
    licence.time.passed(utc_now() + timedelta(days=10))
    await site.imports().into(licence, answer)
    assert licence.trust.value.version == 2
    # A request that was made after the end of the timestamp gets no such trust.
    operators.repository.replace(operators.targets(), utc_now())
    data = (await refresh_request(site.state, licence, site.tpm)).file
    with pytest.raises(TrustError, match="expired"):
        await site.imports().into(licence, operators.answer(data, utc_now() + timedelta(days=10)))


async def test_a_trust_older_than_ours_is_refused_by_name(site: Site, operators: Answerer) -> None:
    stale = Answerer(operators.fabric)
    stale.repository = operators.repository
    old = operators.trust()
    operators.repository.replace(operators.targets(), utc_now())
    await site.receive(operators.answer(await ask(site)))
    data = await ask(site)
    file = msgspec.structs.replace(read_answer(operators.answer(data)), trust=old)
    error = await refused(site, to_file(file), TrustOlder.code)
    assert "cascadia request --new" in error.next


async def test_an_answer_without_a_freshness_is_refused(
    site: Site, operators: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operators.fabric, "freshness", lambda *_: "")
    await refused(site, operators.answer(await ask(site)), StatementRejected.code)


async def test_a_statement_that_is_older_than_the_stored_one_is_refused(
    site: Site, operators: Answerer, quiet: Fabric
) -> None:
    old = quiet.statement
    quiet.say(quiet.lease())
    await site.receive(operators.answer(await ask(site)))
    quiet.say(old)
    error = await refused(site, operators.answer(await ask(site)), StatementRejected.code)
    assert "older" in error.text


async def test_a_first_activation_takes_one_round(empty: Site, operators: Answerer) -> None:
    data = await ask_activation(empty, operators)
    assert not (empty.directory / "identity").exists()
    licence = await empty.receive(operators.answer(data))
    assert (verdict(licence), licence.identity.generation) == (("active", True), 1)
    again = empty.start()
    assert (again.confirmed, again.identity.fingerprint_salt) == (True, SALT)
    assert again.trust.value.repository_url == "http://127.0.0.1:1"
    # The next request refreshes, with the fingerprint, the counter and the receipt.
    request = open_request(read_request(await ask(empty))).request
    assert (request.kind, request.generation, bool(request.fingerprint)) == ("refresh", 1, True)
    assert request.floor is not None
    assert request.receipt is not None
    assert request.receipt.request == operators.received[0].request.request


async def test_a_second_activation_replaces_the_generation(site: Site, operators: Answerer) -> None:
    data = await ask_activation(site, operators)
    licence = await site.receive(operators.answer(data))
    assert (licence.identity.generation, verdict(licence)) == (2, ("active", True))
    assert site.start().identity.generation == 2
    assert operators.received[0].request.held_generation == 1


async def test_another_chip_does_not_open_the_answer(empty: Site, operators: Answerer) -> None:
    """The answer is sealed to the EK of another chip, and otherwise right."""
    data = await ask_activation(empty, operators)
    opened = open_request(read_request(data))
    file = operators.answered(opened, utc_now())
    numbers = rsa.generate_private_key(65537, 2048).public_key().public_numbers()
    other = sealed(opened, b"content", TEMPLATES["rsa2048"].public(numbers.n))
    error = await refused(empty, to_file(msgspec.structs.replace(file, sealed=other)), "airgap_seal_unopened")
    assert error.exit == Exit.HARDWARE_MISMATCH
    assert verdict(await empty.receive(to_file(file))) == ("active", True)


async def test_an_answer_that_is_sealed_to_another_key_is_refused(empty: Site, operators: Answerer) -> None:
    data = await ask_activation(empty, operators)
    file = operators.answered(open_request(read_request(data)), utc_now())
    other = open_request(read_request(data))
    assert other.request.endorsement is not None
    wrong = msgspec.structs.replace(other, sha256=bytes(32))
    altered = msgspec.structs.replace(file, sealed=sealed(wrong, b"content"))
    error = await refused(empty, to_file(altered), "airgap_seal_unopened")
    assert error.exit == Exit.HARDWARE_MISMATCH
    plain = msgspec.structs.replace(file, sealed=None, body="{}")
    await refused(empty, to_file(plain), "airgap_answer_unverified")


async def test_a_running_agent_imports_no_activation(site: Site, operators: Answerer) -> None:
    answer = operators.answer(await ask_activation(site, operators))
    licence = site.start()
    with pytest.raises(AgentInTheWay):
        await Imports(site.state, site.tpm, site.hardware).into(licence, answer)


async def test_a_lost_floor_is_established_by_a_carried_answer(site: Site, operators: Answerer, quiet: Fabric) -> None:
    await site.receive(operators.answer(await ask(site)))
    assert site.state.floors.counter is not None
    quiet.say(quiet.lease(floor={"index": site.state.floors.counter.index}))
    await site.receive(operators.answer(await ask(site)))
    for path in site.state.floors.store.paths:
        path.unlink()
    licence = site.start()
    await licence.check_hardware()
    assert verdict(licence) == ("stale", False)
    assert verdict(await site.receive(operators.answer(await ask(site)))) == ("active", True)
    licence = site.start()
    await licence.check_hardware()
    assert verdict(licence) == ("active", True)


async def test_a_receipt_that_was_not_stored_lets_the_import_be_repeated(site: Site, operators: Answerer) -> None:
    answer = operators.answer(await ask(site))
    record = AirgapStore(site.directory).load()
    await site.receive(answer)
    AirgapStore(site.directory).path.unlink()
    assert record.request
    AirgapStore(site.directory).save_request(msgspec.structs.replace(record, request=msgspec.UNSET), record.request)
    await site.receive(answer)
    assert AirgapStore(site.directory).load().receipt
