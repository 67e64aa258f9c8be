"""Values and pure functions: the keys of a generation that a rekey replaced, and which of them a renewal shows again."""

from datetime import datetime

import msgspec

from protocol.encoding import sha256_hex

KEPT_MAX = 32
"""Former keys of a generation that are kept. A key that is older counts as a new key when it comes back."""


class FormerKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """A key that another key of the generation replaced.

    Attributes:
        key: the SHA-256 of the key's SubjectPublicKeyInfo, in hex.
        replaced_at: the time at which another key replaced it.
        displaced: whether the machine that replaced it held a former key itself. Then the key was left by no rekey of
            its own machine.
    """

    key: str
    replaced_at: datetime
    displaced: bool = False


def find(former: tuple[FormerKey, ...], key: str) -> FormerKey | None:
    """The former key with this hash, or None."""
    return next((each for each in former if each.key == key), None)


def known(former: tuple[FormerKey, ...], current: bytes, key: bytes) -> str:
    """The hash of a key if it is or was a key of the generation, else an empty text. Keys are in DER."""
    digest = sha256_hex(key)
    return digest if key == current or find(former, digest) is not None else ""


def returning(former: tuple[FormerKey, ...], current: str, proved: str, held: str) -> FormerKey | None:
    """The former key with which a machine comes back, or None for a machine that holds the current key.

    `current` is the generation's key, `proved` the key of the renewal, and `held` the key of the certificate that the
    machine shows; each is a hash. A machine with a former key may renew it, or replace it by a new key.
    """
    if proved == current:
        return None
    return find(former, proved) or find(former, held)


def replaced(
    former: tuple[FormerKey, ...], old: bytes, new: bytes, now: datetime, *, displaced: bool
) -> tuple[FormerKey, ...]:
    """The former keys after the key `new` replaced the key `old`. Both are in DER."""
    return with_former(former, FormerKey(sha256_hex(old), now, displaced), new)


def with_former(former: tuple[FormerKey, ...], left: FormerKey, new: bytes) -> tuple[FormerKey, ...]:
    """The former keys with `left` as the latest one. `new` (DER) is the key in force, and no former key."""
    others = [each for each in former if each.key not in (left.key, sha256_hex(new))]
    return (*others, left)[-KEPT_MAX:]
