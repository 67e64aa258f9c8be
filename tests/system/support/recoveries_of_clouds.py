"""Table of recoveries: a machine comes back to a cloud that has changed its keys, or was restored or rebuilt meanwhile.

`tests.system.support.recoveries` describes a row. A row that loses the cloud puts the new one in its place.
"""

from base64 import urlsafe_b64decode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.clock import utc_now
from cloud.crypto.keyfile import read_key, read_passphrase, write_keys
from cloud.fabric.licensing.signing import SigningKey, key_path
from cloud.fabric.tuf.bootstrap import TARGETS_KEY, read_signer
from cloud.fabric.tuf.folder import read_folder, write_folder
from cloud.fabric.tuf.repository import sign_targets
from lab.machine import Machine
from lab.processes import ended, wait_until
from node.licensing.store import LicenceStore
from protocol.encoding import json_decode
from protocol.signed.envelope import VerificationKey, seal
from protocol.signed.statements import Lease, Verified, payload_of, typ_of
from tests.system.support.lost_cloud import Copies, back_up_keys, back_up_under_load, copies_of, lose, restored
from tests.system.support.recoveries import REFUSED, REVOKED, SUSPENDED, Place
from tests.system.support.rotation import Rotation, device_issuer, rotate_without_nodes

TARGETS_DAYS = 30


def ca_rotated_while_away(place: Place) -> None:
    """Root and issuing CAs were rotated while the machine was off, and the old ones are gone. It comes back by itself."""
    machine, node = place.activated()
    before = device_issuer(machine)
    rotation = Rotation(place.cloud, place.directory / "hall")
    rotate_without_nodes(rotation, f"{node} is off")
    assert rotation.adopted() == (0, 1)
    machine.up()
    wait_until("a device certificate from the new CA", lambda: device_issuer(machine) == rotation.subject("nodes-2"))
    assert before == rotation.subject("nodes-1")
    wait_until("adoption", lambda: rotation.adopted() == (1, 1))
    assert machine.run("recover")["outcome"] == "not_needed"
    machine.down()
    place.check(machine, node, 1)
    assert place.audited("renewal.issued")


def rotation_waits_for_a_node_that_is_away(place: Place) -> None:
    """Without an override no CA of the old generation is replaced while a node has not reported the new trust."""
    machine, node = place.activated()
    rotation = Rotation(place.cloud, place.directory / "hall")
    rotation.make()
    rotation.publish_both()
    code, text = rotation.refused(rotation.rotate, "activate", "nodes-2")
    assert (code, "0 of 1 nodes" in text) == ("adoption_incomplete", True), text
    assert [missing["node"] for missing in rotation.trust("adoption", "--missing")] == [node]
    # With this order the machine reads the new trust at once, and not at its daily time.
    rotation.trust("renew-devices", "--after", "now", "--reason", "rotation")
    machine.up()
    wait_until("adoption", lambda: rotation.adopted() == (1, 1))
    machine.down()
    rotation.rotate("activate", "nodes-2")
    place.check(machine, node, 1)


class _SigningKeys:
    """The key that signs leases, and the key that replaces it. The holders of the offline keys publish both."""

    def __init__(self, place: Place) -> None:
        self._place, self._cloud = place, place.cloud
        self._passphrase = read_passphrase(self._cloud.directory / "secrets" / "passphrase")
        self._path = key_path(self._cloud.directory / "fabric" / "keys", "lease")
        stolen = read_key(self._path, self._passphrase)
        assert isinstance(stolen, ec.EllipticCurvePrivateKey)
        self.stolen, self.new = SigningKey(stolen), SigningKey(ec.generate_private_key(ec.SECP256R1()))

    def publish_both(self) -> None:
        """Publish the new key beside the stolen one, and order the nodes to read it."""

        def both(keys: tuple[VerificationKey, ...]) -> tuple[VerificationKey, ...]:
            (stolen,) = (key for key in keys if key.kid == self.stolen.kid)
            new = self.new.verification(stolen.typs, stolen.not_before, stolen.not_after)
            return (*keys, new)

        self._cloud.run("trust", "publish", self._signed("both", both))
        self._order()

    def replace(self) -> None:
        """Let Fabric sign with the new key."""
        self._cloud.down()
        self._path.unlink()
        write_keys({self._path: self.new.private_key}, self._passphrase)
        self._cloud.up()

    def withdraw(self, expect: int = 0) -> Any:
        """Withdraw the stolen key for all dates, and order the nodes to read that. The order has leases signed again."""

        def withdrawn(keys: tuple[VerificationKey, ...]) -> tuple[VerificationKey, ...]:
            return tuple(msgspec.structs.replace(key, withdrawn=key.kid == self.stolen.kid) for key in keys)

        shown = self._cloud.run("trust", "publish", self._signed(f"withdrawn-{expect}", withdrawn), expect=expect)
        if not expect:
            self._order()
        return shown

    def await_adoption(self) -> None:
        """Wait until the running machine uses the published trust."""

        def adopted() -> bool:
            shown = self._cloud.run("trust", "adoption")
            return bool(shown["adopted"] == shown["nodes"] == 1)

        wait_until("adoption", adopted)

    def _order(self) -> None:
        self._cloud.run("trust", "renew-devices", "--after", "now", "--reason", "a signing key was stolen")

    def _signed(self, name: str, change: Callable[[tuple[VerificationKey, ...]], tuple[VerificationKey, ...]]) -> str:
        """Sign the published trust with other signing keys, as the holder of the offline targets key. Returns a folder."""
        published, out = self._place.directory / f"{name}-published", self._place.directory / name
        self._cloud.run("trust", "show", "--export", str(published))
        folder = read_folder(published)
        keys = msgspec.structs.replace(folder.content.keys, keys=change(folder.content.keys.keys))
        files = msgspec.structs.replace(folder.content, keys=keys).encoded()
        key = read_signer(self._cloud.directory / "offline" / TARGETS_KEY, self._passphrase)
        ends = utc_now() + timedelta(days=TARGETS_DAYS)
        targets = sign_targets(ends, folder.targets.version + 1, key, files)
        write_folder(out, folder.roots, targets.data, files)
        return str(out)


def _lease_of(place: Place, node: str) -> tuple[Lease, str]:
    """The node's stored lease at Fabric, and the `kid` of its signature. The signature is not checked."""
    ((token,),) = place.cloud.rows("fabric", f"SELECT statement FROM generation WHERE node = '{node}'")  # noqa: S608
    header, payload, _ = (urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in str(token).split("."))
    return json_decode(payload, Lease), str(msgspec.json.decode(header)["kid"])


def _trust_actions(place: Place) -> Counter[str]:
    """How often the audit has each action on the published trust, apart from the trust in makers of chips."""
    actions = (str(each["action"]) for each in place.cloud.run("audit", "list"))
    return Counter(each for each in actions if each in ("trust.published", "trust.refused", "trust.renew_devices"))


def _withdrawn(place: Place, machine: Machine, keys: _SigningKeys) -> None:
    """Replace and withdraw the stolen key while the machine runs. It never stops, and is down at the end."""
    machine.up()
    keys.publish_both()
    keys.await_adoption()
    keys.replace()
    assert machine.granted()
    keys.withdraw()
    keys.await_adoption()
    assert machine.granted(), "the withdrawal stops the machine"
    machine.down()


def signing_key_withdrawn(place: Place) -> None:
    """The key that signs leases was stolen, and is withdrawn for all dates. The machine gets its lease signed again."""
    machine, node = place.activated()
    keys = _SigningKeys(place)
    assert _lease_of(place, node)[1] == keys.stolen.kid
    _withdrawn(place, machine, keys)
    assert _lease_of(place, node)[1] == keys.new.kid, "the lease is still signed with the withdrawn key"
    assert machine.run("recover", "--no-wait")["outcome"] == "not_needed"
    place.check(machine, node, 1)
    assert _trust_actions(place) == {"trust.published": 2, "trust.renew_devices": 2}


def signing_key_withdrawn_while_away(place: Place) -> None:
    """The machine was off meanwhile. It runs on with the lease that it has, and a carried file brings keys and lease."""
    machine, node = place.activated()
    keys = _SigningKeys(place)
    keys.publish_both()
    keys.replace()
    keys.withdraw()
    assert machine.run("status")["license"]["gate"] == "open"
    request, answer = place.directory / "request", place.directory / "answer"
    machine.run("request", "--out", str(request))
    place.cloud.run("airgap", "answer", str(request), "--out", str(answer))
    assert machine.run("license", "import", str(answer))["state"] == "active"
    assert _lease_of(place, node)[1] == keys.new.kid
    place.check(machine, node, 1)


def signing_key_in_use_is_not_withdrawn(place: Place) -> None:
    """The key that Fabric signs with cannot be withdrawn, because no node could use any lease then."""
    machine, node = place.activated()
    keys = _SigningKeys(place)
    error = keys.withdraw(expect=REFUSED)["error"]
    assert (error["code"], keys.stolen.kid in error["text"]) == ("trust_refused", True), error
    assert machine.run("renew")["state"] == "active"
    place.check(machine, node, 1)
    assert _trust_actions(place) == {"trust.refused": 1}


def lease_of_a_withdrawn_key(place: Place) -> None:
    """A thief signs a longer lease with the stolen key. Once the machine knows the withdrawal, the lease opens no gate."""
    machine, node = place.activated()
    keys = _SigningKeys(place)
    _withdrawn(place, machine, keys)
    lease, kid = _lease_of(place, node)
    forged = msgspec.structs.replace(lease, seq=lease.seq + 1, terminate_at=lease.terminate_at + timedelta(days=99))
    token = seal(typ_of(forged), keys.stolen.kid, payload_of(forged), keys.stolen.private_key)
    store, verified = LicenceStore(machine.state), Verified(forged, token, keys.stolen.kid)
    store.write_statement(verified, utc_now())
    store.write_copy(verified, utc_now())
    status = machine.run("status", expect=None)["license"]
    assert status["gate"] == "closed", f"the forged lease opens the gate: {status}"
    assert machine.run("renew")["gate"] == "open"
    assert _lease_of(place, node)[1] == kid == keys.new.kid
    place.check(machine, node, 1)


@contextmanager
def _lost(place: Place, copies: Copies) -> Iterator[None]:
    """Lose the cloud, and put the one in its place that a backup brings back. It runs until the end of the block."""
    lose(place.cloud)
    new = restored(place.cloud, copies, place.directory / "restored", server=False)
    place.cloud = new
    with ended(new):
        yield


def _backed_up(place: Place) -> Copies:
    """Make a whole backup. Returns the operator's copies."""
    copies = copies_of(place.cloud, place.directory / "copies")
    back_up_under_load(place.cloud, copies, [], place.directory)
    return copies


def _keys_backed_up(place: Place) -> Copies:
    """Make a key backup. Returns the operator's copies."""
    place.directory.mkdir(parents=True, exist_ok=True)
    copies = copies_of(place.cloud, place.directory / "copies")
    back_up_keys(place.cloud, copies)
    return copies


def _terminates(machine: Machine, command: str = "status") -> datetime:
    """The end of the machine's lease, as a command shows it."""
    shown = machine.run(command)
    return datetime.fromisoformat((shown["license"] if command == "status" else shown)["lease"]["terminate_at"])


def _check(place: Place, machine: Machine, node: str) -> None:
    """The machine is the node in generation 1 and runs. The node is the only one, and holds a seat."""
    status = machine.run("status")["license"]
    assert (status["node"], status["generation"], status["gate"]) == (node, 1, "open"), status
    machine.up()
    assert machine.granted()
    machine.down()
    (known,) = place.cloud.run("node", "list", "--tenant", place.tenant)
    found = (known["id"], known["standing"], known["generation"], known["seat_held"], known["hold"])
    assert found == (node, "active", 1, True, ""), found


def _check_revoked(place: Place, machine: Machine, node: str) -> None:
    """The machine shows its revocation, which the cloud did not know, and stays revoked. So does the node."""
    assert machine.run("renew", expect=REVOKED)["state"] == "revoked"
    (known,) = place.cloud.run("node", "list", "--tenant", place.tenant)
    assert (known["id"], known["standing"]) == (node, "revoked"), known
    shown = place.refused(machine, outcome="revoked", expect=REVOKED)
    assert shown["sentence"] == f"Node {node} is revoked, and a recovery does not undo a revocation."
    assert machine.launch().wait() == REVOKED


def cloud_restored(place: Place) -> None:
    """The machine has a later lease than the restored cloud. It keeps this lease until an operator accepts the node."""
    machine, node = place.activated()
    copies = _backed_up(place)
    place.cloud.run("node", "suspend", node, "--reason", "unpaid")
    machine.run("renew", expect=SUSPENDED)
    place.cloud.run("node", "resume", node, "--reason", "paid")
    held = _terminates(machine, "renew")
    with _lost(place, copies):
        assert _terminates(machine, "renew") == held, "the restored cloud gives another lease"
        conflicting: list[Any] = place.cloud.run("node", "list", "--conflicting")
        assert [each["id"] for each in conflicting] == [node]
        assert len(place.audited("node.conflicting")) == 1
        place.cloud.run("node", "accept", node, "--reason", "paid")
        assert _terminates(machine, "renew") > held
        assert len(place.audited("node.accepted")) == 1
        _check(place, machine, node)
        place.check_seats()


def cloud_restored_to_before_a_revocation(place: Place) -> None:
    """The node was revoked after the backup. Its machine presents the revocation, and the cloud adopts it."""
    machine, node = place.activated()
    copies = _backed_up(place)
    place.cloud.run("node", "revoke", node, "--reason", "fraud")
    machine.run("renew", expect=REVOKED)
    with _lost(place, copies):
        _check_revoked(place, machine, node)
        assert len(place.audited("node.revoked_adopted")) == 1


def cloud_lost(place: Place) -> None:
    """Only the keys are left. The machine brings its node back, and keeps its lease until an operator confirms the node."""
    copies = _keys_backed_up(place)
    machine, node = place.activated()
    held = _terminates(machine)
    with _lost(place, copies):
        assert "error" in machine.run("renew", expect=None), "a cloud without the node answers it"
        assert _terminates(machine) == held, "the machine has lost its lease"
        assert not place.cloud.run("node", "list"), "a node came back without a rebuild"
        place.cloud.run("node", "rebuild", "begin", "--reason", "database lost")
        assert _terminates(machine, "renew") == held, "a node that is not confirmed gets other dates"
        unconfirmed: list[Any] = place.cloud.run("node", "list", "--unconfirmed")
        assert [each["id"] for each in unconfirmed] == [node]
        assert len(place.audited("node.reconstructed")) == 1
        place.cloud.run("node", "confirm", node, "--reason", "known")
        assert _terminates(machine, "renew") > held
        place.cloud.run("node", "rebuild", "end", "--reason", "done")
        assert len(place.audited("node.accepted")) == 1
        _check(place, machine, node)


def cloud_lost_with_a_revocation(place: Place) -> None:
    """A revoked node presents its tombstone to the rebuilt cloud. It stays revoked, also if an operator confirms it."""
    copies = _keys_backed_up(place)
    machine, node = place.activated()
    place.cloud.run("node", "revoke", node, "--reason", "fraud")
    machine.run("renew", expect=REVOKED)
    with _lost(place, copies):
        place.cloud.run("node", "rebuild", "begin", "--reason", "database lost")
        _check_revoked(place, machine, node)
        place.cloud.run("node", "confirm", node, "--reason", "taken for another", expect=None)
        assert machine.run("renew", expect=REVOKED)["state"] == "revoked"
        (known,) = place.cloud.run("node", "list", "--tenant", place.tenant)
        assert known["standing"] == "revoked"


ROWS: dict[str, Callable[[Place], None]] = {
    function.__name__.replace("_", " "): function
    for function in (
        ca_rotated_while_away,
        rotation_waits_for_a_node_that_is_away,
        signing_key_withdrawn,
        signing_key_withdrawn_while_away,
        signing_key_in_use_is_not_withdrawn,
        lease_of_a_withdrawn_key,
        cloud_restored,
        cloud_restored_to_before_a_revocation,
        cloud_lost,
        cloud_lost_with_a_revocation,
    )
}
