"""The file adapter: what it signs, for whom, and what it refuses to load."""

import shutil
from pathlib import Path

import pytest
from cryptography import x509

from cloud.breakwater import profiles
from cloud.breakwater.csr import describe_key
from cloud.breakwater.errors import LintError, SignerError
from cloud.breakwater.lint import lint
from cloud.breakwater.signer import KeySigner, load_file_signer
from tests.cloud.breakwater.support import PASSPHRASE, SPIFFE, START, new_key


def wanted(issuer: profiles.Issuer) -> profiles.Wanted:
    key = describe_key(new_key().public_key())
    return profiles.want_session(
        SPIFFE, 1, key, profiles.make_serial(b"\x22" * 20), START, START.replace(year=2027), issuer
    )


async def test_it_signs_exactly_the_linted_bytes_once(home: Path) -> None:
    signer, _ = load_file_signer(home / "breakwater", PASSPHRASE)
    issuer = signer.issuer("nodes")
    wish = wanted(issuer)
    linted = lint(profiles.build(wish, issuer), wish, issuer)
    certificate = x509.load_der_x509_certificate(await signer.sign(linted))
    assert certificate.tbs_certificate_bytes == linted.tbs
    certificate.verify_directly_issued_by(x509.load_der_x509_certificate(issuer.certificate_der))
    with pytest.raises(LintError):
        await signer.sign(linted)


async def test_it_signs_for_no_other_issuer(home: Path) -> None:
    signer, _ = load_file_signer(home / "breakwater", PASSPHRASE)
    issuer = signer.issuer("nodes")
    wish = wanted(issuer)
    linted = lint(profiles.build(wish, issuer), wish, issuer)
    with pytest.raises(SignerError, match="not the nodes CA"):
        await KeySigner({}, {}).sign(linted)
    with pytest.raises(SignerError, match="no CA root here"):
        signer.issuer("root")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda d: (d / "certs" / "root.pem").unlink(), "cannot read the root"),
        (lambda d: (d / "certs" / "nodes-ca.pem").write_text("torn"), "cannot use the CA certificate"),
        (lambda d: shutil.copy(d / "tls" / "chain.pem", d / "certs" / "nodes-ca.pem"), "cannot use the CA certificate"),
        (lambda d: (d / "keys" / "nodes-ca.key.pem").unlink(), "cannot read"),
        (lambda d: (d / "keys" / "nodes-ca.key.pem").chmod(0o640), "others can read it"),
        (
            lambda d: shutil.copy(d / "keys" / "services-ca.key.pem", d / "keys" / "nodes-ca.key.pem"),
            "does not belong to its certificate",
        ),
    ],
)
def test_what_it_refuses_to_load(home: Path, tmp_path: Path, break_it: object, message: str) -> None:
    directory = Path(shutil.copytree(home / "breakwater", tmp_path / "breakwater"))
    assert callable(break_it)
    break_it(directory)
    with pytest.raises(SignerError, match=message):
        load_file_signer(directory, PASSPHRASE)


def test_a_wrong_passphrase(home: Path) -> None:
    with pytest.raises(SignerError, match="wrong passphrase"):
        load_file_signer(home / "breakwater", b"another passphrase, also long")
