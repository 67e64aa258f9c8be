"""One mutation a rule: whatever one mistake of the builder would make is refused by name.

The mutants are built by `cryptography` here, not by the profiles, or by handing lint another wish than was built.
"""

import warnings
from collections.abc import Callable
from datetime import datetime, timedelta
from ipaddress import ip_address

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud.breakwater import lint as lint_module
from cloud.breakwater import profiles
from cloud.breakwater.csr import RequestedKey, describe_key
from cloud.breakwater.errors import LintError
from cloud.breakwater.lint import Linted, lint
from cloud.breakwater.profiles import Issuer, Wanted
from protocol.ids import EKU_DEVICE, ServiceSpiffeId
from tests.cloud.breakwater.support import SPIFFE, START, TRUST_DOMAIN

KEY = describe_key(ec.derive_private_key(5, ec.SECP256R1()).public_key())
OTHER_KEY = describe_key(ec.derive_private_key(6, ec.SECP256R1()).public_key())
P384_KEY = describe_key(ec.derive_private_key(7, ec.SECP384R1()).public_key())
SERIAL = profiles.make_serial(b"\x11" * 20)
ROOT = profiles.self_issuer(profiles.want_root("root", P384_KEY, SERIAL, START))


def below(name: profiles.CaName, key: RequestedKey = OTHER_KEY) -> Issuer:
    wanted = profiles.want_issuing(f"{name} CA", key, SERIAL, START, ROOT)
    return msgspec.structs.replace(profiles.self_issuer(wanted), name=name)


NODES, SERVICES = below("nodes"), below("services")
DEVICE = profiles.want_device(SPIFFE, 3, KEY, SERIAL, START, START + timedelta(days=90), NODES)
SESSION = profiles.want_session(SPIFFE, 3, KEY, SERIAL, START, START + timedelta(days=90), NODES)
SERVICE = profiles.want_service(
    ServiceSpiffeId(TRUST_DOMAIN, "fabric"), ("localhost",), (ip_address("127.0.0.1"),), KEY, SERIAL, START, SERVICES
)
ROOT_WANTED = profiles.want_root("root", P384_KEY, SERIAL, START)
ISSUING = profiles.want_issuing("nodes CA", KEY, SERIAL, START, ROOT)
CLEAN = {"device": (DEVICE, NODES), "session": (SESSION, NODES), "service": (SERVICE, SERVICES)}
CLEAN |= {"root": (ROOT_WANTED, ROOT), "issuing": (ISSUING, ROOT)}


@pytest.mark.parametrize("profile", CLEAN)
def test_what_the_profiles_build_is_clean(profile: str) -> None:
    wanted, issuer = CLEAN[profile]
    tbs = profiles.build(wanted, issuer)
    assert lint(tbs, wanted, issuer).tbs == tbs


def usage(**bits: bool) -> x509.KeyUsage:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign "
        "crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: bits.get(name, False) for name in names.split()})


def san(*names: x509.GeneralName) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(names)


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


class Parts:
    """The parts of a clean session certificate, to be bent."""

    def __init__(self) -> None:
        self.serial = SERIAL
        self.issuer = NODES.subject
        self.subject = profiles.subject_name(SESSION)
        self.key: ec.EllipticCurvePublicKey = KEY.public_key
        self.start, self.end = SESSION.not_before, SESSION.not_after
        self.hash: hashes.SHA256 | hashes.SHA384 = hashes.SHA256()
        self.extensions: dict[str, tuple[x509.ExtensionType, bool]] = {
            "constraints": (x509.BasicConstraints(False, None), True),
            "usage": (usage(digital_signature=True), True),
            "purpose": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
            "names": (san(uri(str(SPIFFE))), False),
            "own": (x509.SubjectKeyIdentifier(KEY.key_id), False),
            "authority": (x509.AuthorityKeyIdentifier(NODES.key_id, None, None), False),
            "no_rev": (x509.UnrecognizedExtension(profiles.NO_REV_AVAIL, b"\x05\x00"), False),
        }

    def tbs(self) -> bytes:
        builder = x509.CertificateBuilder().serial_number(self.serial).issuer_name(self.issuer)
        builder = builder.subject_name(self.subject).public_key(self.key)
        builder = builder.not_valid_before(self.start).not_valid_after(self.end)
        for value, critical in self.extensions.values():
            builder = builder.add_extension(value, critical)
        return builder.sign(ec.derive_private_key(9, ec.SECP256R1()), self.hash).tbs_certificate_bytes


def put(name: str, value: x509.ExtensionType, critical: bool = False) -> Callable[[Parts], None]:
    return lambda parts: parts.extensions.__setitem__(name, (value, critical))


def drop(name: str) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        del parts.extensions[name]

    return change


def field(name: str, value: object) -> Callable[[Parts], None]:
    return lambda parts: setattr(parts, name, value)


def named(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in attributes])


def issuer_id(**fields: object) -> x509.AuthorityKeyIdentifier:
    return (
        x509.AuthorityKeyIdentifier(NODES.key_id, [x509.DNSName("ca")], 5)
        if fields
        else (x509.AuthorityKeyIdentifier(KEY.key_id, None, None))
    )


CN, NUMBER = (NameOID.COMMON_NAME, str(SPIFFE.node)), (NameOID.SERIAL_NUMBER, "3")
DAY: datetime = START + timedelta(days=1)
MUTATIONS: dict[str, tuple[Callable[[Parts], None], str]] = {
    "another serial": (field("serial", SERIAL + 1), "serial_wanted"),
    "another algorithm": (field("hash", hashes.SHA384()), "algorithm"),
    "another issuer": (field("issuer", named(CN)), "issuer"),
    "a longer life": (field("end", SESSION.not_after + timedelta(seconds=1)), "validity_wanted"),
    "an earlier start": (field("start", SESSION.not_before - timedelta(seconds=1)), "validity_wanted"),
    "no generation": (field("subject", named(CN)), "subject"),
    "another generation": (field("subject", named(CN, (NameOID.SERIAL_NUMBER, "4"))), "subject"),
    "another node": (field("subject", named((NameOID.COMMON_NAME, "x"), NUMBER)), "subject"),
    "subject turned round": (field("subject", named(NUMBER, CN)), "subject"),
    "one name more": (field("subject", named(CN, NUMBER, (NameOID.ORGANIZATION_NAME, "x"))), "subject"),
    "another key": (field("key", OTHER_KEY.public_key), "key"),
    "no basicConstraints": (drop("constraints"), "extension_set"),
    "no keyUsage": (drop("usage"), "extension_set"),
    "no EKU": (drop("purpose"), "extension_set"),
    "no SAN": (drop("names"), "extension_set"),
    "no SKI": (drop("own"), "extension_set"),
    "no AKI": (drop("authority"), "extension_set"),
    "no noRevAvail": (drop("no_rev"), "extension_set"),
    "an extension more": (put("more", x509.OCSPNoCheck()), "extension_set"),
    "basicConstraints not critical": (put("constraints", x509.BasicConstraints(False, None)), "criticality"),
    "noRevAvail critical": (
        put("no_rev", x509.UnrecognizedExtension(profiles.NO_REV_AVAIL, b"\x05\x00"), True),
        "criticality",
    ),
    "a CA": (put("constraints", x509.BasicConstraints(True, None), True), "basic_constraints"),
    "may sign certificates": (put("usage", usage(digital_signature=True, key_cert_sign=True), True), "key_usage"),
    "may agree on keys": (put("usage", usage(digital_signature=True, key_agreement=True), True), "key_usage"),
    "a server": (put("purpose", x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])), "extended_key_usage"),
    "a device": (put("purpose", x509.ExtendedKeyUsage([x509.ObjectIdentifier(EKU_DEVICE)])), "extended_key_usage"),
    "client and device": (
        put("purpose", x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, x509.ObjectIdentifier(EKU_DEVICE)])),
        "extended_key_usage",
    ),
    "two URIs": (put("names", san(uri(str(SPIFFE)), uri(str(SPIFFE)))), "one_uri"),
    "no URI": (put("names", san(x509.DNSName("localhost"))), "one_uri"),
    "another SPIFFE id": (put("names", san(uri(f"spiffe://{TRUST_DOMAIN}/service/fabric"))), "spiffe"),
    "a DNS name more": (put("names", san(uri(str(SPIFFE)), x509.DNSName("localhost"))), "hosts"),
    "SKI of another key": (put("own", x509.SubjectKeyIdentifier(OTHER_KEY.key_id[:4])), "subject_key_id"),
    "AKI of another CA": (put("authority", issuer_id()), "authority_key_id"),
    "AKI with a name": (put("authority", issuer_id(named=True)), "authority_key_id"),
    "noRevAvail not NULL": (
        put("no_rev", x509.UnrecognizedExtension(profiles.NO_REV_AVAIL, b"\x30\x00")),
        "no_rev_avail",
    ),
}


def test_the_unbent_parts_are_clean() -> None:
    lint(Parts().tbs(), SESSION, NODES)


@pytest.mark.parametrize("name", MUTATIONS)
def test_one_mutation_one_error(name: str) -> None:
    change, rule = MUTATIONS[name]
    parts = Parts()
    change(parts)
    with pytest.raises(LintError) as caught:
        lint(parts.tbs(), SESSION, NODES)
    assert caught.value.rule == rule


def wish(wanted: Wanted, issuer: Issuer, **changes: object) -> tuple[Wanted, Issuer]:
    return msgspec.structs.replace(wanted, **changes), issuer


WISHES: dict[str, tuple[tuple[Wanted, Issuer], str]] = {
    "a serial that is too short": (wish(DEVICE, NODES, serial=2**127), "serial_size"),
    "a device that never was activated": (wish(DEVICE, NODES, generation=0), "generation"),
    "dates turned round": (wish(DEVICE, NODES, not_before=DAY, not_after=DAY), "validity_order"),
    "a session of a day": (wish(SESSION, NODES, not_after=DAY), "validity_life"),
    "a device for ever": (wish(DEVICE, NODES, not_after=START + timedelta(days=1200)), "validity_life"),
    "a service of two months": (wish(SERVICE, SERVICES, not_after=START + timedelta(days=60)), "validity_life"),
    "past the CA": (
        (DEVICE, msgspec.structs.replace(NODES, not_after=START + timedelta(days=89))),
        "validity_issuer",
    ),
    "before the CA": ((DEVICE, msgspec.structs.replace(NODES, not_before=START)), "validity_issuer"),
    "a P-384 key for a node": (wish(DEVICE, NODES, key=P384_KEY), "curve"),
    "a node by the services' CA": ((SESSION, SERVICES), "issuer_class"),
    "a service by the nodes' CA": ((SERVICE, NODES), "issuer_class"),
    "a leaf by the root": ((DEVICE, ROOT), "issuer_class"),
    "a node that is a service": (
        wish(SESSION, NODES, spiffe=ServiceSpiffeId(TRUST_DOMAIN, "fabric")),
        "spiffe_class",
    ),
    "a service that is a node": (wish(SERVICE, SERVICES, spiffe=SPIFFE), "spiffe_class"),
    "a session with a host name": (wish(SESSION, NODES, dns_names=("localhost",)), "hosts"),
}


@pytest.mark.parametrize("name", WISHES)
def test_a_wrong_wish_is_refused_though_it_was_built_to_the_letter(name: str) -> None:
    (wanted, issuer), rule = WISHES[name]
    with pytest.raises(LintError) as caught:
        lint(profiles.build(wanted, issuer), wanted, issuer)
    assert caught.value.rule == rule


def test_every_rule_has_been_broken() -> None:
    source = lint_module.__file__ or ""
    with open(source, encoding="utf-8") as file:  # noqa: PTH123  the rules are read from the module's own text
        text = file.read()
    rules = {part.split('"')[1] for part in text.split("_require(")[1:] if part.lstrip().startswith('"')}
    broken = {rule for _, rule in MUTATIONS.values()} | {rule for _, rule in WISHES.values()}
    assert rules - broken == {"version"}  # the library's parser has refused it before


def test_der_and_version() -> None:
    tbs = profiles.build(SESSION, NODES)
    for bent in (b"", tbs[:-1], tbs + b"\x00", tbs.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)):
        with pytest.raises(LintError) as caught:
            lint(bent, SESSION, NODES)
        assert caught.value.rule == "der"


def test_an_extension_twice() -> None:
    tbs = profiles.build(SESSION, NODES)
    no_rev = bytes.fromhex("30090603551d3804020500")
    own = bytes.fromhex("0603551d0e")
    assert no_rev in tbs
    assert own in tbs
    with pytest.raises(LintError) as caught:
        lint(tbs.replace(own, bytes.fromhex("0603551d23")), SESSION, NODES)
    assert caught.value.rule == "extensions"


def test_every_single_flipped_bit_is_refused() -> None:
    clean = profiles.build(SESSION, NODES)
    for position in range(len(clean) * 8):
        bent = bytearray(clean)
        bent[position // 8] ^= 1 << position % 8
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parser warns of serials that are not positive; the rule refuses them
            with pytest.raises(LintError):
                lint(bytes(bent), SESSION, NODES)


def test_nothing_else_makes_a_linted_and_it_is_good_once() -> None:
    tbs = profiles.build(SESSION, NODES)
    with pytest.raises(TypeError):
        Linted(tbs, NODES, object())
    linted = lint(tbs, SESSION, NODES)
    assert linted.redeem() == tbs
    with pytest.raises(LintError, match="signed already"):
        linted.redeem()
