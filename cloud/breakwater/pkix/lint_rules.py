"""Values: the rules of each profile version, and the parsed certificate that the lint compares with them.

This module and the lint were written independently of `profiles.py` and use none of its tables. An old version stays in
`RULES`, so that `relint` can check certificates that were issued under it.
"""

from datetime import timedelta
from typing import TypeVar

import msgspec
from cryptography import x509

from cloud.breakwater.errors import LintError
from cloud.breakwater.pkix.profiles import CaName, Issuer, Wanted

E = TypeVar("E", bound=x509.ExtensionType)

BASIC_CONSTRAINTS = "2.5.29.19"
KEY_USAGE = "2.5.29.15"
EXTENDED_KEY_USAGE = "2.5.29.37"
ALTERNATIVE_NAME = "2.5.29.17"
SUBJECT_KEY = "2.5.29.14"
AUTHORITY_KEY = "2.5.29.35"
NO_REV_AVAIL = "2.5.29.56"
NAME_CONSTRAINTS = "2.5.29.30"
CRL_POINTS = "2.5.29.31"
INFORMATION_ACCESS = "1.3.6.1.5.5.7.1.1"
NO_CHECK = "1.3.6.1.5.5.7.48.1.5"
_NODE_CURVES = ("secp256r1",)
_ROOT_CURVES = ("secp384r1",)
_ANY_CURVES = ("secp256r1", "secp384r1")
NEWEST = 3
"""The version of new certificates."""


class Rules(msgspec.Struct, frozen=True):
    """The rules of one profile version. `extensions` maps the OID of each required extension to its criticality.

    A certificate has exactly these extensions. `path_length` is None for a certificate that is not a CA's. With
    `may_name_root_crl` the certificate also has the address of its root's CRL, if the `Wanted` has one.
    """

    extensions: dict[str, bool]
    path_length: int | None
    key_usage: frozenset[str]
    purposes: tuple[str, ...]
    life_max: timedelta
    issuer: tuple[CaName, ...]
    curves: tuple[str, ...]
    may_name_root_crl: bool = False

    @property
    def is_ca(self) -> bool:
        return self.path_length is not None

    def has(self, extension: str) -> bool:
        """Whether certificates of this profile contain the extension with this OID."""
        return extension in self.extensions


_CA_EXTENSIONS = {BASIC_CONSTRAINTS: True, KEY_USAGE: True, SUBJECT_KEY: False, AUTHORITY_KEY: False}
_ISSUING_EXTENSIONS = _CA_EXTENSIONS | {NAME_CONSTRAINTS: True}
_BARE_EXTENSIONS = _CA_EXTENSIONS | {EXTENDED_KEY_USAGE: False}
_LEAF_EXTENSIONS = _BARE_EXTENSIONS | {ALTERNATIVE_NAME: False}
_SESSION_EXTENSIONS = _LEAF_EXTENSIONS | {NO_REV_AVAIL: False}
_REVOCABLE_EXTENSIONS = _LEAF_EXTENSIONS | {CRL_POINTS: False, INFORMATION_ACCESS: False}
_LEAF = frozenset({"digital_signature"})
_CA = frozenset({"key_cert_sign", "crl_sign"})
_CLIENT = ("1.3.6.1.5.5.7.3.2",)
_BOTH_SIDES = ("1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2")
_OCSP_SIGNING = ("1.3.6.1.5.5.7.3.9",)
_DEVICE_OLD = ("2.25.238106524351137287",)
_DEVICE = ("1.2.840.113556.1.8000.2554.17056.48184.29203.16678.48423.2885547.12081603",)


def _days(count: int) -> timedelta:
    return timedelta(days=count)


_NODES: tuple[CaName, ...] = ("nodes",)
_SERVICES: tuple[CaName, ...] = ("services",)
_ROOT: tuple[CaName, ...] = ("root",)
_ROOT_RULES = Rules(_CA_EXTENSIONS, 2, _CA, (), _days(7300), _ROOT, _ROOT_CURVES)
_CROSS_RULES = Rules(_CA_EXTENSIONS, 1, _CA, (), _days(7300), _ROOT, _ROOT_CURVES)
_SESSION_RULES = Rules(_SESSION_EXTENSIONS, None, _LEAF, _CLIENT, timedelta(hours=12), _NODES, _NODE_CURVES)
_ISSUING_RULES = Rules(_ISSUING_EXTENSIONS, 0, _CA, (), _days(3650), _ROOT, _ANY_CURVES)
_SERVICE_RULES = Rules(_REVOCABLE_EXTENSIONS, None, _LEAF, _BOTH_SIDES, _days(7), _SERVICES, _ANY_CURVES)
_RESPONDER_RULES = Rules(
    _BARE_EXTENSIONS | {NO_CHECK: False}, None, _LEAF, _OCSP_SIGNING, _days(2), _NODES + _SERVICES, _NODE_CURVES
)

RULES: dict[tuple[str, int], Rules] = {
    ("root", 1): _CROSS_RULES,
    ("issuing", 1): Rules(_CA_EXTENSIONS, 0, _CA, (), _days(3650), _ROOT, _ANY_CURVES),
    ("device", 1): Rules(_LEAF_EXTENSIONS, None, _LEAF, _DEVICE_OLD, _days(1095), _NODES, _NODE_CURVES),
    ("session", 1): _SESSION_RULES,
    ("service", 1): Rules(_LEAF_EXTENSIONS, None, _LEAF, _BOTH_SIDES, _days(30), _SERVICES, _ANY_CURVES),
    ("root", 2): _ROOT_RULES,
    ("cross", 2): _CROSS_RULES,
    ("issuing", 2): _ISSUING_RULES,
    ("device", 2): Rules(_REVOCABLE_EXTENSIONS, None, _LEAF, _DEVICE_OLD, _days(1095), _NODES, _NODE_CURVES),
    ("session", 2): _SESSION_RULES,
    ("service", 2): _SERVICE_RULES,
    ("responder", 2): _RESPONDER_RULES,
    ("root", 3): _ROOT_RULES,
    ("cross", 3): msgspec.structs.replace(_CROSS_RULES, may_name_root_crl=True),
    ("issuing", 3): msgspec.structs.replace(_ISSUING_RULES, may_name_root_crl=True),
    ("device", 3): Rules(_REVOCABLE_EXTENSIONS, None, _LEAF, _DEVICE, _days(1095), _NODES, _NODE_CURVES),
    ("session", 3): _SESSION_RULES,
    ("service", 3): _SERVICE_RULES,
    ("responder", 3): _RESPONDER_RULES,
}
"""By profile and version. A version stays for `relint` once a certificate was issued under it."""


class Parsed(msgspec.Struct, frozen=True):
    """The input of the rules: a parsed certificate, its bytes, and the `Wanted`, issuer and rules to compare it with.

    `in_place` is the number of parts at the start of the bytes that equal the expected encoding.
    """

    certificate: x509.Certificate
    tbs: bytes
    critical: dict[str, bool]
    values: dict[type[x509.ExtensionType], x509.ExtensionType]
    in_place: int
    wanted: Wanted
    issuer: Issuer
    rules: Rules

    def value(self, kind: type[E]) -> E:
        """Return the extension of this type. Raises LintError when the certificate has none."""
        value = self.values.get(kind)
        if not isinstance(value, kind):
            raise LintError("extension_set", f"no {kind.__name__}")
        return value

    def begins(self, count: int) -> bool:
        """Whether the bytes begin with the first `count` parts in their expected encoding."""
        return self.in_place >= count


def require(rule: str, holds: bool, detail: str) -> None:
    """Raise LintError for the rule `rule` unless it holds."""
    if not holds:
        raise LintError(rule, detail)
