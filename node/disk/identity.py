"""Store: the node's identity on disk, by generation: wrapped keys of the TPM, the device certificate, the node's ids.

    STATE/identity/g-N/   ak.pub ak.priv node.pub node.priv   blobs that only this machine's TPM can load; in the tier
                                                              `software` an unencrypted key, and empty blobs of an AK
                          device.pem                          device certificate and its issuer's, leaf first
                          identity.json                       ids, dates, digests of the blobs
                          key-SPKI.json                       the newer node key, after a rekey
    STATE/current.json                                        number of the confirmed generation
    STATE/activation.json                                     an activation that has not ended
    STATE/renewal.json                                        a renewal with fresh evidence that has not ended

No unencrypted private key of a TPM is stored. Every file has the mode 0600. A generation's directory is written in one
durable step. One rename of `current.json` switches to it. The node key in force is the key that `device.pem` certifies,
so one rename replaces key and certificate together. A torn, truncated or edited file raises StateDamaged; it is never
treated as a missing file.

`current.json`, `activation.json` and `renewal.json` count only if no other user could write them. The files of a
generation are also read if another user could write them; `Identity.doubtful` then has their content, and the caller
verifies the device certificate before it uses the identity.
"""

import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from node.disk.chain import decode_chain, encode_chain
from node.disk.files import (
    StateFile,
    decode_state,
    encode_state,
    ensure_private_dir,
    list_directory,
    read_bounded,
    read_state,
    remove_directory,
    remove_file,
    write_atomic,
    write_directory,
)
from node.disk.pending import ApprovalWait, PendingActivation, PendingRenewal
from node.errors import StateDamaged, StateError, StateUnsafe
from node.hwbind.keys import WrappedKey, key_hash, key_hashes
from node.hwbind.presence import EndorsementRecord
from node.hwbind.succession import Succession
from protocol.encoding import sha256_hex
from protocol.faults import fault_point
from protocol.ids import IdError, NodeId, TenantId, parse_id, parse_trust_domain
from protocol.signed.statements import Holder

AwareTime = Annotated[datetime, msgspec.Meta(tz=True)]

FORMER_KEYS_MAX = 8
"""Node keys before the last rekeys that a lease may name. Each rekey needs an answer of the cloud."""
_GENERATION_DIR = re.compile(r"g-([1-9][0-9]{0,8})")
_KEY_NAME = re.compile(r"key-.*\.json")
_NEXT_CURRENT = (
    "Nothing was changed. Start the agent: it finds the generation in force by the signed statements, and writes the "
    "file again at its next contact with the cloud."
)
_NEXT_ACTIVATION = (
    "Nothing was changed. Remove the file and run `cascadia activate FILE` again; the machine takes no second seat."
)


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """One generation of this node. `chain` is in DER, leaf first. `fingerprint_salt` is the salt of the tenant.

    `endorsement` is the EK of the chip that holds the keys; None if an older agent stored the generation. `doubtful` has
    name and content of each file that another user could have written. `other_keys` are node keys that a lease may name
    beside `node_key`: the keys before the last rekeys, the latest first, and the key of a renewal that has not ended;
    SHA-256 of the SubjectPublicKeyInfo in hex. `succession` is that of the last rekey; None without one.
    """

    trust_domain: str
    tenant: TenantId
    node: NodeId
    generation: int
    activated_at: datetime
    confirm_by: datetime
    fingerprint_salt: bytes
    ak: WrappedKey
    node_key: WrappedKey
    chain: tuple[bytes, ...]
    endorsement: EndorsementRecord | None = None
    doubtful: tuple[tuple[str, bytes], ...] = ()
    other_keys: tuple[str, ...] = ()
    succession: Succession | None = None

    @property
    def holder(self) -> Holder:
        """The node and generation, as statements name them."""
        return Holder(self.trust_domain, self.tenant, self.node, self.generation)


class _IdentityFile(StateFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    trust_domain: str
    tenant: TenantId
    node: NodeId
    generation: int
    activated_at: AwareTime
    confirm_by: AwareTime
    fingerprint_salt: bytes
    ak_parent: bytes
    node_parent: bytes
    blobs_sha256: dict[str, str]
    # Older agents stored neither the public parts of the parents nor the endorsement.
    ak_parent_public: bytes | msgspec.UnsetType = msgspec.UNSET
    node_parent_public: bytes | msgspec.UnsetType = msgspec.UNSET
    endorsement: EndorsementRecord | msgspec.UnsetType = msgspec.UNSET


class _CurrentFile(StateFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    generation: int


class _KeyFile(StateFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node key that a rekey made after the activation, or the key of an older agent with its endorsement."""

    node_key: WrappedKey
    endorsement: EndorsementRecord | msgspec.UnsetType = msgspec.UNSET
    former_keys: tuple[str, ...] = ()
    succession: Succession | msgspec.UnsetType = msgspec.UNSET


def _former_keys(before: Identity, new_key: WrappedKey) -> tuple[str, ...]:
    """The keys that a lease may name after a change to `new_key`.

    The stored lease names an earlier key until the cloud has signed another lease. Several rekeys can come before it.
    """
    named = dict.fromkeys((*key_hashes(before.node_key), *before.other_keys))
    return tuple(key for key in named if key not in key_hashes(new_key))[:FORMER_KEYS_MAX]


def _key_name(public_key: ec.EllipticCurvePublicKey) -> str:
    return f"key-{key_hash(public_key)[:16]}.json"


def _blobs(identity: Identity) -> dict[str, bytes]:
    return {
        "ak.pub": identity.ak.public,
        "ak.priv": identity.ak.private,
        "node.pub": identity.node_key.public,
        "node.priv": identity.node_key.private,
    }


class IdentityStore:
    """The generations in a state directory. A caller that writes holds the directory's lock."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._identities = state_dir / "identity"
        self._current_path = state_dir / "current.json"
        self._activation_path = state_dir / "activation.json"
        self._renewal_path = state_dir / "renewal.json"

    def generation_dir(self, generation: int) -> Path:
        """The directory of a generation, whether or not it exists."""
        return self._identities / f"g-{generation}"

    def save_generation(self, identity: Identity) -> None:
        """Store a generation beside the others. Repeating it is harmless.

        A directory that an earlier try left under the same number is replaced. The number must be above the current
        generation's; otherwise ValueError. If `current.json` is damaged, or other users could write it, the caller has
        compared the number with `State.generation_in_force`. Raises DiskFull, StateUnwritable, StateUnreadable,
        StateUnsafe.
        """
        current = None
        with suppress(StateDamaged, StateUnsafe):
            current = self.current_generation()
        if current is not None and identity.generation <= current:
            raise ValueError(f"generation {identity.generation} is not above the current one, {current}")
        blobs = _blobs(identity)
        record = _IdentityFile(
            trust_domain=identity.trust_domain,
            tenant=identity.tenant,
            node=identity.node,
            generation=identity.generation,
            activated_at=identity.activated_at,
            confirm_by=identity.confirm_by,
            fingerprint_salt=identity.fingerprint_salt,
            ak_parent=identity.ak.parent,
            node_parent=identity.node_key.parent,
            blobs_sha256={name: sha256_hex(data) for name, data in blobs.items()},
            ak_parent_public=identity.ak.parent_public or msgspec.UNSET,
            node_parent_public=identity.node_key.parent_public or msgspec.UNSET,
            endorsement=identity.endorsement or msgspec.UNSET,
        )
        files = {
            **blobs,
            "device.pem": encode_chain(identity.chain),
            "identity.json": encode_state(record),
        }
        for directory in (self._state_dir, self._identities):
            ensure_private_dir(directory)
        with fault_point("node.identity.save"):
            write_directory(self.generation_dir(identity.generation), files)

    def load(self, generation: int) -> Identity:
        """A stored generation. Raises StateDamaged if one of its files is damaged or missing; StateUnreadable."""
        directory = self.generation_dir(generation)
        files = _Files(directory)
        record = decode_state(directory / "identity.json", files.read("identity.json"), _IdentityFile)
        if record.generation != generation:
            raise StateDamaged(directory / "identity.json", f"it is of generation {record.generation}")
        try:
            parse_trust_domain(record.trust_domain)
            parse_id("ten", record.tenant)
            parse_id("node", record.node)
        except IdError as error:
            raise StateDamaged(directory / "identity.json", str(error)) from error
        blob = {name: files.read_blob(name, record) for name in ("ak.pub", "ak.priv", "node.pub", "node.priv")}
        chain = decode_chain(directory / "device.pem", files.read("device.pem"))
        first_key = WrappedKey(
            blob["node.pub"], blob["node.priv"], record.node_parent, record.node_parent_public or None
        )
        key = _later_key(files, chain) or _KeyFile(node_key=first_key, endorsement=record.endorsement)
        return Identity(
            trust_domain=record.trust_domain,
            tenant=record.tenant,
            node=record.node,
            generation=generation,
            activated_at=record.activated_at,
            confirm_by=record.confirm_by,
            fingerprint_salt=record.fingerprint_salt,
            ak=WrappedKey(blob["ak.pub"], blob["ak.priv"], record.ak_parent, record.ak_parent_public or None),
            node_key=key.node_key,
            chain=chain,
            endorsement=key.endorsement or None,
            doubtful=tuple(files.doubtful.items()),
            other_keys=self._other_keys(generation, key),
            succession=key.succession or None,
        )

    def _other_keys(self, generation: int, key: _KeyFile) -> tuple[str, ...]:
        """As `Identity.other_keys`. A stored renewal that cannot be read names no key: it starts again."""
        renewal = None
        with suppress(StateError):
            renewal = self.load_renewal()
        under_way = [renewal.node_key] if renewal is not None and renewal.generation == generation else []
        return (*key.former_keys, *key_hashes(*under_way))

    def make_private(self, identity: Identity) -> Identity:
        """Write the doubtful files of a verified identity again, with the content that was verified.

        A process of another user may still have the old file open; a new file has no such writer. Returns the identity
        without doubt. Raises as `write_atomic`.
        """
        for name, data in identity.doubtful:
            write_atomic(self.generation_dir(identity.generation) / name, data)
        return msgspec.structs.replace(identity, doubtful=())

    def current(self) -> Identity | None:
        """The confirmed generation; None if no generation was confirmed yet. Raises as `load`."""
        generation = self.current_generation()
        return None if generation is None else self.load(generation)

    def pending(self) -> Identity | None:
        """The highest stored generation above the current one. The cloud has not confirmed it yet. Raises as `load`."""
        above = [generation for generation in self.generations() if generation > (self.current_generation() or 0)]
        return self.load(max(above)) if above else None

    def generations(self) -> tuple[int, ...]:
        """The numbers of the stored generations, ascending. Temporary and replaced directories are not counted.

        Raises StateUnreadable, StateDamaged if the directory `identity` cannot be listed.
        """
        matches = (_GENERATION_DIR.fullmatch(name) for name in list_directory(self._identities))
        return tuple(sorted(int(match[1]) for match in matches if match))

    def switch_to(self, generation: int) -> None:
        """Make a stored generation the current one, in one rename. Then remove every generation below N - 1.

        A switch to the current generation does nothing. A switch to a lower one raises ValueError. A `current.json`
        that is damaged, or that another user could write, is replaced: the caller knows from signed statements which
        generation is in force. A damaged generation that cannot be removed stays.
        Raises as `load` and `write_atomic`.
        """
        current = None
        with suppress(StateDamaged, StateUnsafe):
            current = self.current_generation()
        if current == generation:
            return
        if current is not None and generation < current:
            raise ValueError(f"generation {generation} is below the current one, {current}")
        self.load(generation)
        with fault_point("node.identity.switch"):
            write_atomic(self._current_path, encode_state(_CurrentFile(generation=generation)))
        with suppress(StateError):  # The switch is done. The next switch removes what is left.
            for old in self.generations():
                if old < generation - 1:
                    with fault_point("node.identity.prune"):
                        remove_directory(self.generation_dir(old))

    def replace_device_chain(
        self,
        generation: int,
        chain: tuple[bytes, ...],
        node_key: WrappedKey | None = None,
        endorsement: EndorsementRecord | None = None,
        succession: Succession | None = None,
    ) -> None:
        """Replace the device certificate, and after a rekey the node key, in one rename.

        `node_key` is the new key that the certificate certifies; None means that the key stays the same. The caller has
        verified both. `endorsement` is stored with a new key, and with the same key if none was stored yet.
        `succession` is stored with a new key. A crash leaves the old pair or the new pair. Raises as `load` and
        `write_atomic`; ValueError if `chain` is empty or holds something else than certificates.
        """
        data = encode_chain(chain)
        directory = self.generation_dir(generation)
        before = self.load(generation)
        first_endorsement = endorsement is not None and before.endorsement is None
        new_key = node_key if first_endorsement or node_key not in (None, before.node_key) else None
        if new_key is not None:
            record = _KeyFile(
                node_key=new_key,
                endorsement=endorsement or msgspec.UNSET,
                former_keys=_former_keys(before, new_key),
                succession=succession or (before.succession if new_key == before.node_key else None) or msgspec.UNSET,
            )
            with fault_point("node.key.save"):
                write_atomic(directory / _key_name(new_key.public_key()), encode_state(record))
        with fault_point("node.device.replace"):
            write_atomic(directory / "device.pem", data)
        if new_key is not None:
            kept = _key_name(new_key.public_key())
            for name in list_directory(directory):
                if _KEY_NAME.fullmatch(name) and name != kept:
                    with fault_point("node.key.prune"):
                        remove_file(directory / name)

    def save_renewal(self, renewal: PendingRenewal) -> None:
        """Store a renewal that has not ended, in place of an earlier one. Raises as `write_atomic`."""
        with fault_point("node.renewal.save"):
            write_atomic(self._renewal_path, encode_state(renewal))

    def load_renewal(self) -> PendingRenewal | None:
        """The renewal that has not ended, or None. Raises StateDamaged, StateUnreadable."""
        return read_state(self._renewal_path, PendingRenewal)

    def clear_renewal(self) -> None:
        """Remove the stored renewal, because it has ended. Raises StateUnwritable."""
        with fault_point("node.renewal.clear"):
            remove_file(self._renewal_path)

    def save_activation(self, activation: PendingActivation) -> None:
        """Store an activation that has not ended, in place of an earlier one. Raises as `write_atomic`."""
        ensure_private_dir(self._state_dir)
        with fault_point("node.activation.save"):
            write_atomic(self._activation_path, encode_state(activation))

    def load_activation(self) -> PendingActivation | None:
        """The activation that has not ended, or None. Raises StateDamaged, StateUnreadable."""
        return read_state(self._activation_path, PendingActivation, _NEXT_ACTIVATION)

    def approval_wait(self) -> ApprovalWait | None:
        """The operator's decision that the stored activation waits for; None without one, or if it cannot be read."""
        with suppress(StateError):
            pending = self.load_activation()
            return None if pending is None else pending.approval or None
        return None

    def clear_activation(self) -> None:
        """Remove the stored activation, because it has ended. Raises StateUnwritable."""
        with fault_point("node.activation.clear"):
            remove_file(self._activation_path)

    def current_generation(self) -> int | None:
        """The number of the confirmed generation, or None. Its files are not read.

        Raises StateDamaged (of `current.json`), StateUnreadable.
        """
        record = read_state(self._current_path, _CurrentFile, _NEXT_CURRENT)
        return None if record is None else record.generation


class _Files:
    """The files of a generation. `doubtful` has the content of each file that another user could have written."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.doubtful: dict[str, bytes] = {}

    def read(self, name: str) -> bytes:
        """The content of a file. Raises StateDamaged if it is missing; StateUnreadable."""
        data = self.read_if_stored(name)
        if data is None:
            raise StateDamaged(self._directory / name, "it is missing")
        return data

    def read_if_stored(self, name: str) -> bytes | None:
        """The content of a file, or None if it is missing. Raises StateDamaged, StateUnreadable."""
        path = self._directory / name
        try:
            return read_bounded(path, private=True)
        except FileNotFoundError:
            return None
        except StateUnsafe:
            data = self.doubtful[name] = read_bounded(path)
            return data

    def read_blob(self, name: str, record: _IdentityFile) -> bytes:
        """The content of a blob. Raises StateDamaged if the record has another digest; StateUnreadable."""
        data = self.read(name)
        if record.blobs_sha256.get(name) != sha256_hex(data):
            raise StateDamaged(self._directory / name, "it is torn or was edited (its checksum does not match)")
        return data

    def read_key(self, name: str) -> _KeyFile | None:
        """The key in a key file, or None if the file is missing. Raises StateDamaged, StateUnreadable."""
        data = self.read_if_stored(name)
        return None if data is None else decode_state(self._directory / name, data, _KeyFile)


def _later_key(files: _Files, chain: tuple[bytes, ...]) -> _KeyFile | None:
    """The node key that the certificate certifies, if it has a file; otherwise None. Raises StateDamaged."""
    try:
        public_key = x509.load_der_x509_certificate(chain[0]).public_key() if chain else None
    except (ValueError, UnsupportedAlgorithm):
        return None  # The check of the certificate refuses its key.
    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        return None
    return files.read_key(_key_name(public_key))
