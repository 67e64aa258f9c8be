"""The keys and the chip of a licence, with software keys: no TPM is needed to say which lease counts."""

import msgspec

from node.disk.identity import Identity
from node.hwbind import keys, presence
from node.hwbind.keys import key_hash
from node.hwbind.presence import EndorsementRecord
from node.licensing.binding import bound_holder
from protocol.endorsement import name_of
from tests.node.shells import identity
from tests.simulators.fabric import Fabric

EK = bytes.fromhex("0001000b") + bytes(300)


def made(**changes: object) -> Identity:
    key = keys.create_software_key()
    return msgspec.structs.replace(identity(Fabric(), keys.NO_KEY, key), **changes)


def test_the_node_key_and_the_recorded_chip() -> None:
    of = made()
    record = presence.record_endorsement(None, of.node_key, EK)
    holder = bound_holder(msgspec.structs.replace(of, endorsement=record, other_keys=("aa" * 32,)))
    assert holder.node_keys == (key_hash(of.node_key.public_key()), "aa" * 32)
    assert holder.ek_name == name_of(EK).hex()
    assert msgspec.structs.replace(holder, node_keys=(), ek_name="") == of.holder


def test_a_chip_counts_only_if_the_node_key_signed_its_record() -> None:
    other = presence.record_endorsement(None, keys.create_software_key(), EK)
    for record in (None, other, EndorsementRecord(EK, b"no signature")):
        assert bound_holder(made(endorsement=record)).ek_name == ""
