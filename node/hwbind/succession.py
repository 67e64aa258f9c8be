"""Adapter: the succession of two node keys at a rekey. Each key signs that the other key is the same node's.

The floor record is signed by the node key. A rekey changes the record and the identity on the disk one after the other.
A crash in between leaves a record of the one key and an identity of the other key. So the key of the identity says which
other key may have signed the record: before the change the key that follows, after the change the key before. Without
this signature, an edited file could name a key of its author, and a record of that key would lower the floor.

Limit: a person who can use the node key in the TPM can sign such a succession, and can sign a floor record as well.

`record_succession` runs inside `Tpm.call`.
"""

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from tpm2_pytss import ESAPI

from node.hwbind import keys
from node.hwbind.errors import TpmError
from node.hwbind.keys import WrappedKey

# No other message that the node key signs begins like these (`node.hwbind.presence`).
_FOLLOWS = b"cascadia: this node key is followed by the node key "
_PRECEDES = b"cascadia: this node key follows the node key "


class Succession(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two node keys (`TPMT_PUBLIC`), and the signature of each over the other one (ECDSA-Sig-Value)."""

    former: bytes
    new: bytes
    by_former: bytes
    by_new: bytes


def record_succession(esys: ESAPI, former: WrappedKey, new: WrappedKey) -> Succession:
    """Have both keys sign the succession. Raises TpmError, and the library's error."""
    return Succession(
        former=former.public,
        new=new.public,
        by_former=keys.sign(esys, former, _FOLLOWS + new.public),
        by_new=keys.sign(esys, new, _PRECEDES + former.public),
    )


def other_key(succession: Succession, node_key: WrappedKey) -> ec.EllipticCurvePublicKey | None:
    """The other key of the succession, if `node_key` has signed that it is the same node's. Otherwise None."""
    if node_key.public == succession.former:
        other, message, signature = succession.new, _FOLLOWS + succession.new, succession.by_former
    elif node_key.public == succession.new:
        other, message, signature = succession.former, _PRECEDES + succession.former, succession.by_new
    else:
        return None
    try:
        node_key.public_key().verify(signature, message, ec.ECDSA(hashes.SHA256()))
        return WrappedKey(other, b"", node_key.parent).public_key()
    except (InvalidSignature, TpmError):
        return None
