"""Adapter: proofs that the node's TPM is in this machine, for the time in which its key cannot be asked.

There are two proofs, and the node key signs both of them, so an edited file is no proof:

- *The key answered in this boot.* The node key signs the kernel's boot id. The proof ends with the boot. A copied disk
  is in another machine, whose boot has another id.
- *The chip's own endorsement key is the recorded one.* The node key signs the public part of the EK at the activation.
  Later the chip shows the same EK: at a persistent handle, which needs no password, or made again from its template.
  A chip makes an EK persistent only together with its private part, and the attribute fixedTPM keeps the private part
  in the chip (TPM 2.0 Library Part 3, 28.5).

Limit: the second proof trusts the answers of the TPM. A person who controls the machine and puts a
program in place of `/dev/tpmrm0` can show any public part. The same person can change the agent.

The functions that take a context run inside `Tpm.call`.
"""

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_CAP
from tpm2_pytss.types import TPMT_PUBLIC

from node.hwbind import keys
from node.hwbind.errors import TpmError
from node.hwbind.keys import WrappedKey
from node.hwbind.tpm import Tpm

# No other message that the node key signs begins like these: a proof of a session is a JWS, a request is DER.
_BOOT = b"cascadia: the node key answered in boot "
_ENDORSEMENT = b"cascadia: the node key is in the chip of this endorsement key "

_EK_HANDLES = range(0x81010000, 0x81020000)
"""Persistent handles of endorsement keys (TCG Registry of Reserved TPM 2.0 Handles, 2.3.1)."""
_PERSISTENT_MAX = 32
"""More persistent objects than a TPM has room for. The bound keeps the answer in one response."""


class EndorsementRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The EK (`TPMT_PUBLIC`) of the activation, and the node key's signature over it (ECDSA-Sig-Value)."""

    ek_public: bytes
    signature: bytes


def record_endorsement(esys: ESAPI, node_key: WrappedKey, ek_public: bytes) -> EndorsementRecord:
    """Record the EK of the chip that holds the node key."""
    return EndorsementRecord(ek_public, keys.sign(esys, node_key, _ENDORSEMENT + ek_public))


def endorses(node_key: WrappedKey, record: EndorsementRecord) -> bool:
    """Whether the node key signed the record."""
    return _signed(node_key, record.signature, _ENDORSEMENT + record.ek_public)


def sign_boot(esys: ESAPI, node_key: WrappedKey, boot_id: str) -> bytes:
    """Prove that the node key answers in this boot. Returns the signature (ECDSA-Sig-Value)."""
    return keys.sign(esys, node_key, _BOOT + boot_id.encode())


def signed_in_boot(node_key: WrappedKey, boot_id: str, signature: bytes) -> bool:
    """Whether the node key made the signature, for this boot."""
    return _signed(node_key, signature, _BOOT + boot_id.encode())


def shows_endorsement(tpm: Tpm, node_key: WrappedKey, record: EndorsementRecord) -> bool:
    """Whether the chip shows the recorded EK now. A chip that does not answer shows none. Takes seconds on a slow chip.

    Each way is a separate work of `tpm`, because a refusal of the first way must not prevent the second.
    """
    if not endorses(node_key, record):
        return False
    for way in (_is_persistent, _is_made_again):
        try:
            if tpm.call(lambda esys, way=way: way(esys, record.ek_public)):  # type: ignore[misc]  # bound default
                return True
        except TpmError:
            continue
    return False


def _is_persistent(esys: ESAPI, ek_public: bytes) -> bool:
    _, capability = esys.get_capability(TPM2_CAP.HANDLES, _EK_HANDLES.start, _PERSISTENT_MAX)
    listed = capability.data.handles
    for at in range(int(listed.count)):
        handle = int(listed[at])
        if handle not in _EK_HANDLES:
            break
        with keys.persistent_object(esys, handle) as found:
            if found is not None and bytes(found[1].marshal()) == ek_public:
                return True
    return False


def _is_made_again(esys: ESAPI, ek_public: bytes) -> bool:
    try:
        name = bytes(keys.parse(TPMT_PUBLIC, ek_public).get_name())
    except (TSS2_Exception, ValueError):
        return False
    with keys.primary_key(esys, ESYS_TR.ENDORSEMENT, ek_public, name) as made:
        return made is not None


def _signed(node_key: WrappedKey, signature: bytes, message: bytes) -> bool:
    try:
        node_key.public_key().verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, TpmError):
        return False
    return True
