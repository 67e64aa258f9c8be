"""What an order is made of: the names of a profile, the key of a request that asks for nothing else, the request's name.

Pure. Rule: tenant, node, generation and host names come from the caller, never out of a request.
"""

import re

from cryptography import x509
from cryptography.x509.oid import NameOID

from cloud.breakwater.errors import ValueRefused
from cloud.breakwater.pkix.csr import NODE_CURVES, RequestedKey, open_csr
from cloud.breakwater.pkix.profiles import Issuer, Wanted
from cloud.breakwater.store import Order, ServiceHostName
from protocol.ids import NodeSpiffeId

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


def node_order(caller: str, request: str, spiffe: NodeSpiffeId, wanted: Wanted, issuer: Issuer, shard: str) -> Order:
    """An order for a node. Raises ValueRefused."""
    return Order(
        request_key=request_key_of(caller, request),
        caller=caller,
        wanted=wanted,
        authority=issuer.authority,
        shard=shard,
        tenant=spiffe.tenant,
        node=spiffe.node,
    )


def request_key_of(caller: str, request: str) -> str:
    """How a caller's request is known for ever. Raises ValueRefused."""
    if not _REQUEST_ID.fullmatch(request):
        raise ValueRefused("`request` is 1 to 128 letters, digits or _ . : -")
    return f"{caller}:{request}"


def node_key(csr_der: bytes, spiffe: NodeSpiffeId, generation: int) -> RequestedKey:
    """The key of a node's request. Raises CsrRefused."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, spiffe.node),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, str(generation)),
        ]
    )
    return open_csr(csr_der, NODE_CURVES, subject=subject, names=names_of(str(spiffe)))


def names_of(uri: str, *hosts: x509.GeneralName) -> x509.SubjectAlternativeName:
    """A profile's subject alternative names."""
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri), *hosts])


def dns_of(hosts: tuple[ServiceHostName, ...]) -> tuple[str, ...]:
    """The DNS names among a service's host names."""
    return tuple(host.value for host in hosts if host.kind == "dns")
