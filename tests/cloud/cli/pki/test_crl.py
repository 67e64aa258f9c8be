"""`cascade pki crl` shows, writes and publishes CRLs."""

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from protocol.encoding import sha256_hex
from tests.cloud.cli.pki.support import Host

pytestmark = pytest.mark.slow


def test_crls_are_made_shown_and_written(host: Host) -> None:
    (first, root) = host.pki("crl")
    assert (first["shard"], first["entries"], first["behind"], first["file"]) == ("services-1.1", 0, False, "")
    assert (root["shard"], root["number"], root["entries"], root["behind"]) == ("root-1.1", 1, 0, False)
    (same, _) = host.pki("crl", "--out", str(host.scratch / "crls"))
    assert same["number"] == first["number"]
    assert x509.load_der_x509_crl(Path(same["file"]).read_bytes()).issuer.rfc4514_string().endswith("services CA 1")
    (newer, _) = host.pki("crl", "--publish")
    assert newer["number"] > first["number"]
    assert "services-1.1" in host.printed("crl")


def test_the_roots_next_crl_is_signed_in_a_ceremony_and_imported(host: Host) -> None:
    """It continues the CRL that `cascade init` made, and revokes an issuing CA."""
    home, out = host.directory, host.scratch / "root-1.2.crl.pem"
    certs, passphrase = home / "breakwater" / "certs", home / "secrets" / "passphrase"

    def named(path: Path) -> str:
        return f'{{ path = "{path}", sha256 = "{sha256_hex(path.read_bytes())}" }}'

    nodes = x509.load_pem_x509_certificate((certs / "nodes-ca.pem").read_bytes())
    host.ceremony(
        f'type = "crl"\nnumber = 2\ndays = 365\ncrl = "{out}"\nprevious = {named(certs / "root.crl")}\n'
        f'[root]\nauthority = "root-1"\ncertificate = {named(certs / "root.pem")}\n'
        f'key = "{home / "offline" / "root-ca.key.pem"}"\npassphrase_file = "{passphrase}"\n'
        f'[[revoked]]\ncertificate = {named(certs / "nodes-ca.pem")}\nreason = "superseded"\n'
        f"at = {nodes.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}\n"
    )
    for _ in range(2):
        *_, root = host.pki("crl", "--import", str(out))
        assert (root["shard"], root["number"], root["entries"]) == ("root-1.1", 2, 1)
    assert set(host.pki("status")["root_crls"]) == {"root-1"}
    older = str(certs / "root.crl")
    assert host.pki("crl", "--import", older, expect=77)["error"]["code"] == "refused"


@pytest.mark.parametrize("second", ["--publish", "--import=root.crl", "--out=crls"])
def test_a_ceremony_is_prepared_alone(host: Host, second: str) -> None:
    host.refused(2, "options_conflict", "crl", "--ceremony", str(host.scratch / "room"), second)
    assert not (host.scratch / "room").exists()


def test_openssl_and_gnutls_accept_a_chain_with_both_crls(host: Host) -> None:
    """`make drills PART=strangers` asks more programs."""
    out, issuer = host.scratch / "crls", host.directory / "breakwater"
    host.pki("crl", "--out", str(out))
    root, ca, leaf = issuer / "certs" / "root.pem", issuer / "certs" / "services-ca.pem", issuer / "tls" / "chain.pem"
    lists = [f"-CRLfile={out / name}.crl" for name in ("services-1.1", "root-1.1")]
    verify = ["openssl", "verify", "-crl_check_all", "-CAfile", str(root), "-untrusted", str(ca)]
    subprocess.run([*verify, *lists, str(leaf)], check=True, capture_output=True)
    assert subprocess.run([*verify, lists[0], str(leaf)], check=False, capture_output=True).returncode != 0
    subprocess.run(["certtool", "--certificate-info", f"--infile={ca}"], check=True, capture_output=True)
    # certtool reads list and CA in the same encoding.
    pem = out / "root-1.1.crl.pem"
    pem.write_bytes(x509.load_der_x509_crl((out / "root-1.1.crl").read_bytes()).public_bytes(Encoding.PEM))
    for trusted, verdict in ((root, "Verified"), (ca, "Not verified")):
        verify = ["certtool", "--verify-crl", f"--load-ca-certificate={trusted}", f"--infile={pem}"]
        answer = subprocess.run(verify, check=False, capture_output=True, text=True)
        assert f"Verification output: {verdict}" in answer.stdout, answer
