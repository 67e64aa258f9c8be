"""`cloud.events.nats.nkeys`: keys of NATS as texts."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud.events.nats.nkeys import Kind, NkeyError, public_text, read_public, read_seed, seed_text

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
# Made by the library `nkeys` 0.2.1 of the NATS project from the same 32 bytes.
LITERAL: dict[Kind, tuple[str, str]] = {
    "operator": (
        "SOAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H2AJA",
        "OAB2CB576PHBBPQ5ODORRZ2LYCMWPZGWGCN2KDK7DXOIMZASKUY3QZVT",
    ),
    "account": (
        "SAAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4HYMHI",
        "AAB2CB576PHBBPQ5ODORRZ2LYCMWPZGWGCN2KDK7DXOIMZASKUY3QPZV",
    ),
    "user": (
        "SUAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H776Y",
        "UAB2CB576PHBBPQ5ODORRZ2LYCMWPZGWGCN2KDK7DXOIMZASKUY3RLKK",
    ),
}


@pytest.mark.parametrize("kind", LITERAL)
def test_texts_are_those_of_the_nats_project(kind: Kind) -> None:
    seed, public = LITERAL[kind]
    assert (seed_text(KEY, kind), public_text(KEY, kind)) == (seed, public)
    assert read_seed(seed, kind).private_bytes_raw() == KEY.private_bytes_raw()
    assert read_public(public, kind).public_bytes_raw() == KEY.public_key().public_bytes_raw()


def test_no_changed_letter_is_accepted() -> None:
    seed, public = LITERAL["user"]
    for at in range(len(public)):
        changed = public[:at] + ("A" if public[at] != "A" else "B") + public[at + 1 :]
        with pytest.raises(NkeyError):
            read_public(changed, "user")
    for at in range(len(seed)):
        changed = seed[:at] + ("A" if seed[at] != "A" else "B") + seed[at + 1 :]
        with pytest.raises(NkeyError) as refused:
            read_seed(changed, "user")
        assert changed not in str(refused.value)


@pytest.mark.parametrize("text", ["", "U", LITERAL["user"][1].lower(), LITERAL["user"][1] + "A", "é" * 56])
def test_other_texts_are_no_keys(text: str) -> None:
    with pytest.raises(NkeyError):
        read_public(text, "user")
    with pytest.raises(NkeyError):
        read_seed(text, "user")


def test_a_key_has_one_purpose() -> None:
    with pytest.raises(NkeyError, match="not the key of a user"):
        read_public(LITERAL["account"][1], "user")
    with pytest.raises(NkeyError, match="not the seed of a user"):
        read_seed(LITERAL["account"][0], "user")
