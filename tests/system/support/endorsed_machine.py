"""Machines with each kind of endorsement certificate: they activate, restart, renew and rekey, or follow a cure.

A kind says what the maker wrote into the TPM, and which CAs the tenant trusts. A kind that is not `attested` at once
is refused with a cause, and a cure is followed: a step of an operator, made of what the refusal or
`cascadia identity ek` says. After the cure the machine goes the whole way.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from tpm2_pytss.types import TPM2B_PUBLIC, TPMT_PUBLIC

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import StepFailed, wait_until
from node.hwbind import endorsement
from node.hwbind.tpm import Tpm
from protocol.endorsement import TEMPLATES, EkType
from tests.simulators import chip_memory
from tests.simulators import forged_evidence as forged
from tests.simulators import odd_certificates as odd
from tests.simulators.forged_evidence import NOW, Authority

CHAIN_INDEX = 0x01C00100
Cure = Callable[["Site"], None]


@dataclass(frozen=True)
class Kind:
    """A kind of chip.

    Args:
        ek_type: the EK that the certificate is for.
        cas: the CAs of the maker, the root first. The last one signs the EK certificate.
        stored_cas: how many of the last CAs are in the NV memory of the TPM and not with the tenant.
        change: what the maker does to the certificate that it writes.
        usage: KeyUsage of the certificate, None for that of an EK.
        other_key: the certificate is for the key of another chip.
        unwritten: the index is defined and was never written.
        trusted_type: the EK type that the tenant's roots name.
        trusts: the tenant trusts the maker's root.
        refused: words of the cause with which the machine is refused at first; empty if it is `attested`.
        cure: what an operator does then.
        tier: the tier of the licence in the end.
    """

    ek_type: EkType = "rsa2048"
    cas: Callable[[], list[Authority]] = lambda: chain(1)
    stored_cas: int = 0
    change: Callable[[bytes, Authority], bytes] = lambda der, _: der
    usage: x509.KeyUsage | None = None
    other_key: bool = False
    unwritten: bool = False
    trusted_type: EkType | None = None
    trusts: bool = True
    refused: str = ""
    cure: Cure | None = None
    tier: str = "attested"


@dataclass
class Site:
    """A kind at work: cloud, machine and TPM, and the tenant of the kind."""

    cloud: Cloud
    machine: Machine
    tpm: Tpm
    kind: Kind
    tenant: str = ""
    refusal: Mapping[str, Any] = field(default_factory=dict)

    def trust(self, action: str, *options: str) -> Any:
        """Show or change the hardware that the tenant trusts."""
        return self.cloud.run("hardware", action, self.tenant, *options)

    def file(self, *cas: Authority) -> str:
        """A file of CA certificates."""
        path: Path = self.machine.directory / "cas.pem"
        path.write_bytes(b"".join(ca.pem for ca in cas))
        return str(path)


def chain(intermediates: int, **options: Any) -> list[Authority]:
    """A root and CAs below it. `options` are those of the lowest one (`forged.authority`)."""
    found = [forged.authority("Field Root")]
    for number in range(intermediates):
        lowest = options if number == intermediates - 1 else {}
        found.append(forged.authority(f"Field CA {number}", found[-1], **lowest))
    return found


def faulty(name: str) -> Callable[[bytes, Authority], bytes]:
    return lambda der, issuer: odd.faulty(der, issuer.key, odd.FAULTS[name])


def allow_by_name(site: Site) -> None:
    """The cure in the refusal: allow the EK whose name `cascadia identity ek` shows."""
    (key,) = (each for each in site.machine.run("identity", "ek")["keys"] if each["ek_type"] == "rsa2048")
    said = site.refusal["next"]
    if key["allow_ek"] not in said:
        raise StepFailed(f"the refusal's next step {said!r} is not that of `identity ek`: {key['allow_ek']!r}")
    site.trust("allow-ek", key["name"], "--note", "seen on the board")


def admit_tpm(site: Site) -> None:
    """Admit chips that no maker vouches for."""
    site.cloud.run("tenant", "tiers", site.tenant, "attested,tpm")


def name_the_type(site: Site) -> None:
    """Trust the same root again, for the type of the chip's EK. A root names one type."""
    site.trust("remove-root", *(each["sha256"] for each in site.trust("show")["ek_roots"] if each["root"]))
    site.trust("add-root", str(site.machine.directory / "cas.pem"), "--ek-type", site.kind.ek_type)


POLICIES = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("2.5.29.32.0"), None)])
ECC_USAGE = forged.key_usage(key_agreement=True)

KINDS: dict[str, Kind] = {
    **{f"certificate with a fault: {name}": Kind(change=faulty(name)) for name in odd.FAULTS},
    "critical policies in the CA": Kind(cas=lambda: chain(1, extra=[POLICIES])),
    "CA ended after it issued": Kind(cas=lambda: chain(1, not_after=NOW - timedelta(days=300))),
    "names in other string types": Kind(
        change=lambda der, issuer: odd.renamed(der, issuer.key, issuer=odd.common_name("field ca 0", 0x14))
    ),
    "padding behind the certificate": Kind(change=lambda der, _: der.ljust(1600, b"\xff")),
    "ECC P-256 only": Kind(ek_type="ecc_p256", usage=ECC_USAGE),
    "ECC P-384 only": Kind(ek_type="ecc_p384", usage=ECC_USAGE),
    "CAs in the chip": Kind(cas=lambda: chain(5), stored_cas=3),
    "CAs in the chip, ECC P-256": Kind(ek_type="ecc_p256", usage=ECC_USAGE, cas=lambda: chain(5), stored_cas=3),
    "certificate that cannot be read": Kind(
        change=lambda der, _: b"\x10\x01\x00\x04\x06\x00\x00" + der,
        refused="cannot be read",
        cure=allow_by_name,
    ),
    "certificate that cannot be read, tier tpm": Kind(
        change=lambda der, _: b"\x10\x01\x00\x04\x06\x00\x00" + der,
        refused="cannot be read",
        cure=admit_tpm,
        tier="tpm",
    ),
    "certificate of a signing key": Kind(
        usage=forged.key_usage(digital_signature=True), refused="is for a signing key", cure=allow_by_name
    ),
    "certificate of another key": Kind(other_key=True, refused="for another key than the EK", cure=allow_by_name),
    "maker unknown to the tenant": Kind(
        trusts=False, refused="issuer is not among the tenant's roots", cure=admit_tpm, tier="tpm"
    ),
    "index never written": Kind(unwritten=True, refused="gave no endorsement certificate", cure=allow_by_name),
    "ECC only, roots name RSA": Kind(
        ek_type="ecc_p256",
        usage=ECC_USAGE,
        trusted_type="rsa2048",
        refused="the EK is of the type ecc_p256",
        cure=name_the_type,
    ),
}


@contextmanager
def written(tpm: Tpm, kind: Kind) -> Iterator[list[Authority]]:
    """The chip as the maker of this kind leaves it. Yields the maker's CAs."""
    cas = kind.cas()
    key = _stranger(kind.ek_type) if kind.other_key else _ek(tpm, kind.ek_type)
    sound = forged.maker().certify(key, issuer=cas[-1], usage=kind.usage)
    index = TEMPLATES[kind.ek_type].certificate_index
    contents: dict[int, bytes | None] = {each.certificate_index: None for each in TEMPLATES.values()}
    contents[CHAIN_INDEX] = None
    if not kind.unwritten:
        contents[index] = kind.change(sound, cas[-1])
    if kind.stored_cas:
        stored = b"".join(ca.der for ca in reversed(cas[-kind.stored_cas :]))
        contents[CHAIN_INDEX], contents[CHAIN_INDEX + 1] = stored[:900], stored[900:] + b"\xff" * 30
    with chip_memory.memory(tpm, contents):
        if kind.unwritten:
            tpm.call(lambda esys: chip_memory.define(esys, index, 1200))
        yield cas


def walk(cloud: Cloud, machine: Machine, tpm: Tpm, kind: Kind) -> None:
    """Take a machine without state the whole way. Raises StepFailed at the first step that is not as the kind says."""
    with written(tpm, kind) as cas:
        site = Site(cloud, machine, tpm, kind)
        site.tenant = str(cloud.run("tenant", "create", "field")["id"])
        trusted = site.file(*cas[: len(cas) - kind.stored_cas])
        if kind.trusts:
            site.trust("add-root", trusted, "--ek-type", kind.trusted_type or kind.ek_type)
        file = str(cloud.code(site.tenant))
        if kind.refused:
            site = replace(site, refusal=machine.run("activate", file, expect=77)["error"])
            _expect("the cause of the refusal", kind.refused in site.refusal["text"], site.refusal)
            if kind.cure is not None:
                kind.cure(site)
        licence = machine.run("activate", file)
        _expect("the tier", licence["lease"]["tier"] == kind.tier, licence)
        for _ in range(2):
            machine.up()
            wait_until("the contact", lambda: machine.ask("/v1/status")["last_contact_at"])
            _expect("the grant", machine.granted(), machine.ask("/v1/license"))
            machine.down()
        for options in ((), ("--rekey",)):
            renewed = machine.run("renew", *options)
            _expect("the licence after the renewal", renewed["gate"] == "open", renewed)


def _expect(what: str, good: bool, seen: object) -> None:
    if not good:
        raise StepFailed(f"{what} is not as expected: {seen}")


def _ek(tpm: Tpm, ek_type: EkType) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    """The public key of the chip's EK."""
    raw = tpm.call(lambda esys: endorsement.read_endorsement(esys, ek_type)).public
    area, _ = TPMT_PUBLIC.unmarshal(raw)
    key = load_pem_public_key(TPM2B_PUBLIC(publicArea=area).to_pem())
    assert isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
    return key


def _stranger(ek_type: EkType) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    return (forged.rsa2048("stranger") if ek_type == "rsa2048" else forged.p256("stranger")).public_key()
