"""`cloud.fabric.secrets`: an installation of an earlier release gets its key of recovery codes, once."""

from cloud.fabric.entropy import system_entropy
from cloud.fabric.secrets import read_secrets
from cloud.fabric.store import Stores
from tests.cloud.fabric.store.conftest import database, recorded, stores

__all__ = ["database", "recorded", "stores"]


async def test_an_existing_installation_gets_a_key_of_recovery_codes_once(stores: Stores) -> None:
    for name, value in (("epoch", b"1"), ("nonce_key", b"n" * 32), ("ek_key", b"e" * 32)):
        await stores.installation.insert(name, value)
    first = await read_secrets(stores.installation, lambda count: b"r" * count)
    assert first.recovery_key == b"r" * 32
    again = await read_secrets(stores.installation, system_entropy)
    assert again.recovery_key == first.recovery_key
    assert (again.nonce_key, again.ek_key) == (b"n" * 32, b"e" * 32)


async def test_of_two_replicas_the_first_makes_the_key(stores: Stores) -> None:
    await stores.installation.insert_new("recovery_key", b"first")
    await stores.installation.insert_new("recovery_key", b"second")
    assert (await stores.installation.read_all())["recovery_key"] == b"first"
