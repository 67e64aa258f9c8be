"""Pure functions: the name of a grant, which is the instance of its unit and the name of its file.

An entitlement's name can have any characters. Its grant has the name that `systemd-escape` makes of it: see section
"String escaping for inclusion in unit names" of systemd.unit(5).
"""

LICENCE = ".licence"
"""The grant of the licence as a whole. No entitlement has this name, because a leading dot is always escaped."""
INSTANCE_CHARS_MAX = 233
"""A unit's name has at most 255 characters, and `cascadia-gate@.service` has 22 of them."""

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:_.")


def instance_of(name: str) -> str | None:
    """The grant of an entitlement. None if its name is empty, or too long for the name of a unit."""
    pieces = [_escaped(byte, first=at == 0) for at, byte in enumerate(name.encode())]
    instance = "".join(pieces)
    return instance if 0 < len(instance) <= INSTANCE_CHARS_MAX else None


def _escaped(byte: int, *, first: bool) -> str:
    if byte == ord("/"):
        return "-"
    if byte not in _PLAIN or (first and byte == ord(".")):
        return f"\\x{byte:02x}"
    return chr(byte)


def name_of(instance: str) -> str | None:
    """The entitlement of a grant: the inverse of `instance_of`. None for the licence as a whole.

    Raises ValueError if no entitlement has this grant.
    """
    if instance == LICENCE:
        return None
    data, rest = bytearray(), instance
    while rest:
        if rest.startswith("\\x"):
            data.append(int(rest[2:4], 16))
            rest = rest[4:]
        else:
            data += b"/" if rest[0] == "-" else rest[0].encode()
            rest = rest[1:]
    name = data.decode()
    if instance_of(name) != instance:
        raise ValueError(f"{instance!r} is the grant of no entitlement")
    return name
