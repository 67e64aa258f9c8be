"""`cascade node rebuild`: begin, end, show, and the import of CRLs and closed generations."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.cli.connection import Server
from cloud.cli.errors import EXIT_USAGE, EXIT_VERIFICATION
from cloud.cli.main import main
from cloud.cli.restored.rebuild import FILE_BYTES_MAX
from cloud.clock import utc_now
from cloud.fabric.bodies.restored import ENTRIES_MAX, BeginRebuild, ChangeRebuild, ClosedGenerations, ImportClosed
from protocol.ids import NodeId, TenantId
from protocol.signed.trust import ServiceUrls, X509Bundle
from tests.cloud.cli.conftest import Calls
from tests.cloud.cli.support import AT, NODE, TENANT, error_of

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
STATE = {"since": AT, "unconfirmed": 2, "imported": 1}
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nodes")])


def crl_of(key: ec.EllipticCurvePrivateKey, *serials: int) -> bytes:
    builder = x509.CertificateRevocationListBuilder(NAME, NOW, NOW + timedelta(days=1))
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.fixture
def ca(monkeypatch: pytest.MonkeyPatch) -> ec.EllipticCurvePrivateKey:
    """The key of a trusted CA of nodes."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder(NAME, NAME, key.public_key(), 1, NOW, NOW + timedelta(days=1))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    bundle = X509Bundle(
        format=1, trust_domain="cascade.internal", roots=(), node_issuers=(certificate,), service_issuers=()
    )
    monkeypatch.setattr(Server, "trust", lambda _: (bundle, ServiceUrls(1, "", "")))
    return key


def test_begin_end_and_show(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.answer("POST", "/v1/rebuild/begin", STATE)
    calls.answer("POST", "/v1/rebuild/end", STATE | {"since": None})
    calls.answer("GET", "/v1/rebuild", STATE)
    assert main(["node", "rebuild", "begin", "--reason", "lost"]) == 0
    assert main(["node", "rebuild", "begin", "--days", "2"]) == 0
    assert main(["node", "rebuild", "show"]) == 0
    assert "unconfirmed" in capsys.readouterr().out
    assert main(["node", "rebuild", "--json", "end"]) == 0
    assert '"since": null' in capsys.readouterr().out
    first, second, *rest = (body for _, _, body in calls.made)
    assert (first, rest) == (BeginRebuild("lost"), [None, ChangeRebuild("")])
    assert isinstance(second, BeginRebuild)
    assert second.until is not None
    assert timedelta(days=1) < second.until - utc_now() <= timedelta(days=2)


def test_crls_and_closed_generations_are_imported_in_parts(
    calls: Calls, ca: ec.EllipticCurvePrivateKey, tmp_path: Path
) -> None:
    calls.answer("POST", "/v1/rebuild/closed", STATE)
    crl, closed = tmp_path / "nodes-1.1.crl", tmp_path / "closed"
    crl.write_bytes(crl_of(ca, *range(0xA0, 0xA0 + ENTRIES_MAX + 1)))
    closed.write_text(f"# last comparison\n{NODE} {TENANT} 3\n")
    assert main(["node", "rebuild", "import", "--crl", str(crl), "--closed", str(closed)]) == 0
    generations, first, second = (body for _, _, body in calls.made)
    assert generations == ImportClosed((ClosedGenerations(NodeId(NODE), TenantId(TENANT), 3),))
    assert (len(first.serials), first.serials[0], len(second.serials)) == (ENTRIES_MAX, "a0", 1)


def test_a_crl_of_another_ca_is_refused(
    calls: Calls, ca: ec.EllipticCurvePrivateKey, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert ca.curve.name == "secp256r1"
    crl = tmp_path / "crl"
    crl.write_bytes(crl_of(ec.generate_private_key(ec.SECP256R1()), 1))
    assert main(["node", "rebuild", "import", "--json", "--crl", str(crl)]) == EXIT_VERIFICATION
    assert error_of(capsys.readouterr().out)["code"] == "crl_unverified"
    crl.write_bytes(b"no CRL")
    assert main(["node", "rebuild", "import", "--json", "--crl", str(crl)]) == EXIT_USAGE
    assert error_of(capsys.readouterr().out)["code"] == "crl_unusable"
    crl.write_text(f"{NODE} three\n")
    for option, code in ((("--closed", str(crl)), "list_unusable"), (("--crl", str(tmp_path / "x")), "file_unusable")):
        assert main(["node", "rebuild", "import", "--json", *option]) == EXIT_USAGE
        assert error_of(capsys.readouterr().out)["code"] == code
    with crl.open("wb") as file:
        file.truncate(FILE_BYTES_MAX + 1)
    assert main(["node", "rebuild", "import", "--json", "--closed", str(crl)]) == EXIT_USAGE
    assert error_of(capsys.readouterr().out)["code"] == "file_too_large"
    assert main(["node", "rebuild", "import", "--json"]) == EXIT_USAGE
    assert error_of(capsys.readouterr().out)["code"] == "import_empty"
    assert calls.made == []
