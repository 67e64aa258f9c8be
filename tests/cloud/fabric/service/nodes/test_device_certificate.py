"""`cloud.fabric.service.nodes.device_certificate`: a valid certificate is read, and each mutation is refused."""

from datetime import timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from cloud.fabric import errors
from cloud.fabric.service.nodes.device_certificate import Device, read_device_certificate
from protocol.ids import EKU_DEVICE, EKU_DEVICE_ACCEPTED, EKU_DEVICE_OLD
from tests.cloud.fabric.support import Machine, World
from tests.cloud.pki import Pki


async def test_a_session_certificate_is_no_device_certificate(world: World, machine: Machine) -> None:
    chain = (await machine.session()).certificate_chain
    body = msgspec.structs.replace(machine.ask_for_session(), device_certificate=chain[0])
    with pytest.raises(errors.CertificateRefused, match="extended key usage"):
        await world.parts.nodes.sessions.open_session(body)


async def test_an_expired_device_certificate(world: World, machine: Machine) -> None:
    world.clock.forward(timedelta(days=800))
    with pytest.raises(errors.CertificateRefused, match="not valid at this time"):
        await world.parts.nodes.sessions.open_session(machine.ask_for_session())


async def test_certificates_of_another_kind(world: World, machine: Machine) -> None:
    assert machine.activated is not None
    foreign = Pki().node().certificate.public_bytes(serialization.Encoding.DER)
    for der in (b"", b"no certificate", foreign, machine.activated.certificate_chain[1]):
        body = msgspec.structs.replace(machine.ask_for_session(), device_certificate=der)
        with pytest.raises(errors.CertificateRefused):
            await world.parts.nodes.sessions.open_session(body)


def test_each_rule_of_device_certificates() -> None:
    """Certificates from the right CA, each wrong in one field."""
    from tests.cloud import pki as paper

    made = Pki()
    device = (x509.ObjectIdentifier(EKU_DEVICE),)
    subject = ((NameOID.COMMON_NAME, str(paper.NODE_ID)), (NameOID.SERIAL_NUMBER, "1"))
    good = made.leaf(made.nodes, (paper.NODE_URI,), subject=subject, usages=device)
    now = good.certificate.not_valid_before_utc + timedelta(minutes=6)
    old = (x509.ObjectIdentifier(EKU_DEVICE_OLD),)
    before = made.leaf(made.nodes, (paper.NODE_URI,), subject=subject, usages=old)
    both = tuple(map(x509.ObjectIdentifier, EKU_DEVICE_ACCEPTED))
    bad = {
        "device certificate .extended": made.leaf(made.nodes, (paper.NODE_URI,), subject=subject, usages=both),
        "CA of its class": made.leaf(made.services, (paper.NODE_URI,), subject=subject, usages=device),
        "extended key usage": made.leaf(made.nodes, (paper.NODE_URI,), subject=subject, usages=(*device, paper.CLIENT)),
        "does not name a node": made.leaf(made.nodes, (paper.service_uri("fabric"),), subject=subject, usages=device),
        "2 URI names": made.leaf(made.nodes, (paper.NODE_URI, paper.NODE_URI), subject=subject, usages=device),
        "does not name": made.leaf(made.nodes, (paper.NODE_URI,), subject=subject[1:], usages=device),
        "cannot be read": made.leaf(
            made.nodes, (paper.NODE_URI,), subject=(subject[0], (NameOID.SERIAL_NUMBER, "01")), usages=device
        ),
    }

    def read(leaf: paper.Leaf) -> Device:
        der = leaf.certificate.public_bytes(serialization.Encoding.DER)
        return read_device_certificate(der, made.trust.node_issuers, paper.TRUST_DOMAIN, now)

    assert (read(good).generation, read(good).spiffe.node) == (1, paper.NODE_ID)
    assert (read(before).generation, read(before).spiffe.node) == (1, paper.NODE_ID)
    for why, leaf in bad.items():
        with pytest.raises(errors.CertificateRefused, match=why):
            read(leaf)


def test_a_verified_certificate_is_judged_again_by_dates_and_trust() -> None:
    from tests.cloud import pki as paper

    made, other = Pki(), Pki()
    subject = ((NameOID.COMMON_NAME, str(paper.NODE_ID)), (NameOID.SERIAL_NUMBER, "1"))
    leaf = made.leaf(
        made.nodes, (paper.NODE_URI,), subject=subject, usages=(x509.ObjectIdentifier(EKU_DEVICE),)
    ).certificate
    der = leaf.public_bytes(serialization.Encoding.DER)
    issuers, now = made.trust.node_issuers, leaf.not_valid_before_utc + timedelta(minutes=6)
    first = read_device_certificate(der, issuers, paper.TRUST_DOMAIN, now)
    assert read_device_certificate(bytes(bytearray(der)), issuers, paper.TRUST_DOMAIN, now) == first
    for at in (leaf.not_valid_before_utc - timedelta(seconds=1), leaf.not_valid_after_utc + timedelta(seconds=1)):
        with pytest.raises(errors.CertificateRefused):
            read_device_certificate(der, issuers, paper.TRUST_DOMAIN, at)
    for trusted in ((), other.trust.node_issuers):
        with pytest.raises(errors.CertificateRefused, match="CA of its class"):
            read_device_certificate(der, trusted, paper.TRUST_DOMAIN, now)
    with pytest.raises(errors.CertificateRefused, match="CA of its class"):
        read_device_certificate(der, issuers, paper.TRUST_DOMAIN, issuers[0].not_valid_after_utc + timedelta(days=1))
    with pytest.raises(errors.CertificateRefused, match="trust domain"):
        read_device_certificate(der, issuers, "other.example", now)
