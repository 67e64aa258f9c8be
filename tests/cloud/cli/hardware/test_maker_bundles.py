"""`cloud.cli.hardware.maker_bundles`: certificates of a file or folder, their makers, and what cannot be used."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from cloud.cli.errors import CliError
from cloud.cli.hardware import maker_bundles
from cloud.cli.hardware.maker_bundles import MakerCount, read_bundles
from tests.simulators.forged_evidence import Authority, authority

INFINEON = authority("Infineon OPTIGA(TM) RSA Root CA")
ISSUING = authority("Infineon OPTIGA(TM) TPM 2.0 RSA CA 007", INFINEON)
AMD = authority("AMDTPM RSA")
ENDED_BADLY = authority("Infineon Leaf", INFINEON, ca=False, may_sign=False)


def pem(*authorities: Authority, between: str = "# Owner: IFX\n#\n") -> str:
    return "".join(between + each.pem.decode() for each in authorities)


def test_a_file_as_collections_publish_it(tmp_path: Path) -> None:
    file = tmp_path / "tpm-ca-certificates.pem"
    bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n-----BEGIN X-----\nAAAA\n-----END X-----\n"
    file.write_bytes((pem(INFINEON, ISSUING, AMD, ENDED_BADLY, INFINEON) + bad).replace("\n", "\r\n").encode())
    bundle = read_bundles([file])
    assert (bundle.files, bundle.blocks, len(bundle.entries)) == (1, 7, 6)
    assert bundle.counts(["infineon"]) == (
        MakerCount("amd", 1, 0, 0, False),
        MakerCount("infineon", 1, 1, 1, True),
        MakerCount("unknown", 0, 0, 2, False),
    )
    assert [(each.role, each.fault) for each in bundle.chosen(["infineon"])] == [
        ("root", ""),
        ("intermediate", ""),
        ("intermediate", "it is not a CA certificate"),
    ]
    assert len(bundle.chosen([])) == 6
    reasons = [each.fault for each in bundle.chosen(["unknown"])]
    assert reasons[0].startswith("it cannot be read")
    assert reasons[1] == "the PEM block is damaged or is no certificate"
    assert [each.block.line for each in bundle.entries[:2]] == [3, 3 + pem(INFINEON).count("\n")]


def test_a_folder_of_certificates_in_both_forms(tmp_path: Path) -> None:
    (tmp_path / "Infineon" / "RootCA").mkdir(parents=True)
    (tmp_path / "Infineon" / "RootCA" / "root.crt").write_bytes(INFINEON.der)
    (tmp_path / "Infineon" / "all.PEM").write_text(pem(INFINEON, ISSUING))
    (tmp_path / "README").write_text(pem(AMD))
    bundle = read_bundles([tmp_path])
    assert (bundle.files, bundle.blocks, [each.maker for each in bundle.entries]) == (2, 3, ["infineon"] * 2)


def test_a_certificate_without_a_readable_name_is_of_no_maker(tmp_path: Path) -> None:
    certificate = authority("An unknown CA").certificate
    assert certificate.subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "An unknown CA")])
    (tmp_path / "one.der").write_bytes(certificate.public_bytes(Encoding.DER))
    assert [each.maker for each in read_bundles([tmp_path / "one.der"]).entries] == ["unknown"]


def test_what_is_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(CliError, match="contains no certificate"):
        read_bundles([tmp_path / "empty.pem"])
    with pytest.raises(CliError, match="cannot read"):
        read_bundles([tmp_path / "none.pem"])
    (tmp_path / "a.pem").write_text(pem(AMD))
    monkeypatch.setattr(maker_bundles, "BUNDLE_FILES_MAX", 1)
    with pytest.raises(CliError, match="more than 1 certificate files"):
        read_bundles([tmp_path])
    monkeypatch.setattr(maker_bundles, "FILE_BYTES_MAX", 1000)
    with pytest.raises(CliError, match="more than 1000 bytes"):
        read_bundles([tmp_path / "a.pem", tmp_path / "a.pem"])
