"""Pure functions: the keys and the chip that a lease may name, from the stored identity of a generation.

A lease of version 2 names the hash of the node key and the TPM name of the chip's EK. So the licence of one machine does
not count on another, also if files are copied and a certificate is issued wrongly. A rekey changes the node key; for a
while the stored lease may name the earlier key, or the cloud's lease the key of a renewal whose answer is still to come.
"""

from node.disk.identity import Identity
from node.hwbind.keys import key_hashes
from node.hwbind.presence import endorses
from protocol.endorsement import name_of
from protocol.signed.statements import Holder


def bound_holder(identity: Identity) -> Holder:
    """The holder of the identity's licence, with its keys and its chip.

    The chip is not known without a record of its EK that the node key has signed: an older agent stored none, and a node
    without a TPM has none. A node key that cannot be read is not compared; no TPM uses it.
    """
    holder, record = identity.holder, identity.endorsement
    known = record is not None and endorses(identity.node_key, record)
    return Holder(
        trust_domain=holder.trust_domain,
        tenant=holder.tenant,
        node=holder.node,
        generation=holder.generation,
        node_keys=(*key_hashes(identity.node_key), *identity.other_keys),
        ek_name=name_of(record.ek_public).hex() if record is not None and known else "",
    )
