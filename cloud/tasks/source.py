"""Pure functions: the source of a request, by which callers without an identity are counted."""

from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

SOURCES_KEPT_MAX = 4096
"""Hosts whose source is kept. Every request needs it, and the hosts of the connected callers repeat."""


@lru_cache(maxsize=SOURCES_KEPT_MAX)
def source_of(host: str) -> str:
    """Return the source of a host: its IPv4 address, or its IPv6 network of 64 bits, which belongs to one customer.

    An IPv4 address in the form of IPv6 (RFC 4291 section 2.5.5.2) is the IPv4 address.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(ip_network((address, 64), strict=False)) if isinstance(address, IPv6Address) else str(address)


@lru_cache(maxsize=SOURCES_KEPT_MAX)
def site_of(host: str) -> str:
    """Return the IPv6 network of 48 bits of a host or source, which often belongs to one customer (RFC 6177).

    Its holder has 65,536 sources. The text is empty for an IPv4 address.
    """
    source = source_of(host)
    if "/" not in source:
        return ""
    return str(ip_network(source).supernet(new_prefix=48))
