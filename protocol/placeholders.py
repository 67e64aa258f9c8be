"""Pure functions: serial numbers and UUIDs that a manufacturer never set.

A placeholder is equal on many machines, so it identifies none of them. The tables hold the words and values. The rules
find the kinds: words that only describe a field, and characters that follow a pattern.
"""

import re
from collections import Counter
from itertools import pairwise

_LABELS = (
    "applicable", "asset", "assigned", "available", "base", "baseboard", "blank", "board", "bsn", "chassis", "changeme",
    "csn", "default", "empty", "enclosure", "enter", "example", "fill", "filled", "insert", "invalid", "mainboard",
    "manufacturer", "mb", "missing", "motherboard", "msn", "name", "none", "not", "null", "number", "oem", "present",
    "product", "provided", "sample", "serial", "set", "settable", "sku", "sn", "specified", "ssn", "standard", "string",
    "system", "tag", "tbd", "todo", "type", "type1", "type2", "type3", "undefined", "uninitialized", "unknown", "unset",
    "unspecified", "uuid", "value", "xxx",
)  # fmt: skip
"""Words that name a field or say that it is empty. They also occur without spaces: SerialNumber, MB1234567890."""

_SMALL_WORDS = frozenset(
    {
        "a", "be", "by", "change", "e", "fill", "for", "here", "in", "information", "is", "m", "me", "n", "na", "no",
        "num", "o", "of", "or", "out", "please", "s", "the", "this", "to", "your",
    }
)  # fmt: skip
"""Words between the labels. They count as whole words only, because many serial numbers begin with these letters."""

SAMPLES: dict[str, str] = {
    "00020003-0004-0005-0006-000700080009": "FreeBSD, rc.d/hostid; the sample of a firmware kit",
    "07090201-0103-0301-0807-060504030201": "FreeBSD, rc.d/hostid",
    "12345678-1234-5678-90ab-cddeefaabbcc": "sample of a firmware kit",
    "4c4c4544-0000-2010-8020-80c04f202020": "FreeBSD, rc.d/hostid; a Dell board without its service tag",
    "58585858-5858-5858-5858-585858585858": "FreeBSD, rc.d/hostid",
    "890e2d14-cacd-45d1-ae66-bc80e8bfeb0f": "FreeBSD, rc.d/hostid",
    "8a95d198-7f46-11e5-bf8b-08002704d48e": "edk2 platform code; SolidRun/lx2160a_uefi issue 4",
    "8e275844-178f-44a8-aceb-a7d7e5178c63": "FreeBSD, rc.d/hostid",
    "dc698397-fa54-4cf2-82c8-b1b5307a6a7f": "FreeBSD, rc.d/hostid",
    "deadbeef-dead-beef-dead-beefdeadbeef": "written by test tools",
    "fefefefe-fefe-fefe-fefe-fefefefefefe": "FreeBSD, rc.d/hostid",
    "00:90:4c:11:22:33": "default memory of Broadcom's wireless cards",
    "00:e0:4c:36:00:01": "example of Realtek's programming tool, left in network adapters",
    ".pcie2": "serial number of boards of one batch",
    "123": "serial number typed by an assembler",
}
"""Values that were seen on many machines, with the source. Most UUIDs follow a rule below as well."""

TEXTS: dict[str, str] = {
    "default string": "default of AMI's firmware",
    "to be filled by o.e.m.": "default of AMI's firmware",
    "to be filled by oem": "default of AMI's firmware, in another spelling",
    "system serial number": "default of AMI's firmware",
    "base board serial number": "default of AMI's firmware",
    "chassis serial number": "default of AMI's firmware",
    "serial number": "the name of the field",
    "not specified": "dmidecode, for an empty text",
    "not applicable": "the field has no value",
    "not available": "the field has no value",
    "n/a": "the field has no value",
    "none": "the field has no value",
    "null": "the field has no value",
    "empty": "the field has no value",
    "unknown": "the field has no value",
    "undefined": "the field has no value",
    "invalid": "the field has no value",
    "not set": "the field has no value",
    "oem": "the name of the maker in the place of its value",
    "type2 - board serial number": "default of Phoenix's firmware",
    "0123456789": "digits in their order",
    "123456789": "digits in their order",
    "1234567890": "digits in their order",
    "12345678": "digits in their order",
    "1234": "digits in their order",
    "012345678": "digits in their order",
    "00000000-0000-0000-0000-000000000000": "an unset UUID (DSP0134, 7.2.1)",
    "ffffffff-ffff-ffff-ffff-ffffffffffff": "a UUID that is not present (DSP0134, 7.2.1)",
    "03000200-0400-0500-0006-000700080009": "default of AMI's firmware",
    "00:00:00:00:00:00": "an unset address of a network card",
    "ff:ff:ff:ff:ff:ff": "the address of a broadcast",
    **{"0" * length: "zeros" for length in range(1, 21)},
    **{letter * length: "one letter" for letter in "fx" for length in (1, 2, 4, 8, 10, 16)},
}
"""The usual texts that the rules below find, with the source. The cloud sees HMACs, so it knows placeholders by value."""

# Patterns are texts. `re` compiles each at its first use, and keeps it; an agent that starts uses none of them.
_VALUE_PATTERNS = (
    # A Dell UUID holds the letters "DELL" and the seven characters of the service tag. Here all seven are blank.
    r"4c4c4544-00(?:00|20)-(?:00|20)10-80(?:00|20)-(?:80|a0)c04f(?:00|20){3}",
    # Only the first field of the UUID was written to the flash.
    r"[0-9a-f]{8}-ffff-ffff-ffff-ffffffffffff",
    # The disks that QEMU and Proxmox number within one virtual machine.
    r"qm\d{5}",
    r"drive-[a-z]+\d+(?:-\d+)*",
)

_SEQUENCES = tuple(
    letters * 4
    for ascending in ("0123456789", "0123456789abcdef", "1234567890abcdef", "abcdefghijklmnopqrstuvwxyz", "qwertyuiop")
    for letters in (ascending, ascending[::-1])
)
"""Orders in which people and test programs write characters, from either end and around the end."""

_SEQUENCE_CHARS_MIN = 4
_PATTERN_CHARS_MIN = 8
_ODD_DIGITS_OF_UUID_MAX = 4

_LABEL_RUN = f"(?:{'|'.join(sorted(_LABELS, key=len, reverse=True))})*"
_WORD = r"[^\W_]+"
_NOTATION = r"^(?:0x|naa\.|eui\.|wwn-)+"
_UUID = r"([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{12})"


def normalise(value: str) -> str:
    """The value in lower case, with single spaces and without surrounding white space."""
    return " ".join(value.split()).lower()


def swapped_uuid(text: str) -> str:
    """The same UUID with the first three fields in the other byte order; a text in another form is returned unchanged.

    Firmware writes the fields in little-endian order from SMBIOS 2.6 on, and in either order before (DSP0134, 7.2.1).
    """
    fields = re.fullmatch(_UUID, text)
    if fields is None:
        return text
    first, second, third, *rest = fields.groups()
    return "-".join([*(bytes.fromhex(field)[::-1].hex() for field in (first, second, third)), *rest])


def is_placeholder(value: str) -> bool:
    """Whether the manufacturer did not set this value, whatever its case, spaces and notation."""
    text = normalise(value)
    return any(_is_known(spelling) or _says_nothing(spelling) for spelling in {text, swapped_uuid(text)})


def _is_known(text: str) -> bool:
    return text in SAMPLES or any(re.fullmatch(pattern, text) for pattern in _VALUE_PATTERNS)


def _says_nothing(text: str) -> bool:
    """Whether nothing is left but filler once the words that describe the field are removed."""
    words = (word for word in re.findall(_WORD, re.sub(_NOTATION, "", text)) if word not in _SMALL_WORDS)
    rests = [rest for rest in map(_without_labels, words) if rest]
    joined = "".join(rests)
    return (
        not rests
        or _is_filler(joined)
        or all(len(rest) > 1 and _is_filler(rest) for rest in rests)
        or (re.fullmatch(_UUID, text) is not None and _is_almost_one_digit(joined))
    )


def _without_labels(word: str) -> str:
    run = re.match(_LABEL_RUN, word)
    return word[run.end() :] if run else word


def _is_filler(text: str) -> bool:
    return (
        len(set(text)) == 1
        or re.fullmatch(r"0+1", text) is not None
        or _is_sequence(text)
        or _is_repetition(text)
        or _counts_up(text, digits=2)
        or _counts_up(text, digits=4)
    )


def _is_sequence(text: str) -> bool:
    """Such as 123456789 or FEDCBA98; also with each character written twice or more often, as 00112233."""
    runs = [match.group() for match in re.finditer(r"(.)\1*", text)]
    if len({len(run) for run in runs}) != 1:
        return False
    once = "".join(run[0] for run in runs)
    return len(once) >= _SEQUENCE_CHARS_MIN and any(once in sequence for sequence in _SEQUENCES)


def _is_repetition(text: str) -> bool:
    """Whether a short pattern fills the value, at least four times over: FEFEFEFE."""
    return len(text) >= _PATTERN_CHARS_MIN and any(
        len(text) % period == 0 and text == text[:period] * (len(text) // period)
        for period in range(1, len(text) // 4 + 1)
    )


def _counts_up(text: str, digits: int) -> bool:
    """Whether groups of hexadecimal digits count up by one: 0002 0003 0004 0005. Six pairs or four quads at least."""
    if len(text) % digits or len(text) < (12 if digits == 2 else 16) or re.fullmatch(r"[0-9a-f]+", text) is None:
        return False
    numbers = [int(text[at : at + digits], 16) for at in range(0, len(text), digits)]
    return all(after == before + 1 for before, after in pairwise(numbers))


def _is_almost_one_digit(digits: str) -> bool:
    """Whether a UUID is one digit but for a few bits: a partly erased flash, or the fixed bits of a UUID's version."""
    return len(digits) - Counter(digits).most_common(1)[0][1] <= _ODD_DIGITS_OF_UUID_MAX
