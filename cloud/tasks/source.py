"""Pure functions: the source of a request, by which callers without an identity are counted."""

from ipaddress import IPv6Address, ip_address, ip_network


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
