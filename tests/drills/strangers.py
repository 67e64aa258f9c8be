"""Certificates of each profile, read by OpenSSL, GnuTLS, NSS, Java, Go and node.js.

Each program parses a certificate of each profile. OpenSSL, Java and Go also check the chain of a service with the CRLs
of the issuing CA and of the root.
"""

import argparse
import asyncio
import shutil
import subprocess
import tempfile
from pathlib import Path

from cloud.cli.main import main
from tests.cloud.breakwater.chains import pem, specimens
from tests.drills.frame import CannotRun, Figure, Outcome, Say

USUAL_TIME = "1 min"
MINUTES_MAX = 10.0
COMMAND_SECONDS = 120.0

PACKAGES = {
    "openssl": "openssl",
    "certtool": "gnutls-bin",
    "certutil": "libnss3-tools",
    "java": "default-jdk-headless",
    "go": "golang-go",
    "node": "nodejs",
}
"""The programs, and the Debian package of each."""

JAVA = """
import java.io.*; import java.nio.file.*; import java.security.cert.*; import java.util.*;
public class Chain {
  public static void main(String[] a) throws Exception {
    CertificateFactory f = CertificateFactory.getInstance("X.509");
    if (a[0].equals("parse")) {
      for (int i = 1; i < a.length; i++) f.generateCertificate(new FileInputStream(a[i]));
      return;
    }
    var root = (X509Certificate) f.generateCertificate(new FileInputStream(a[1]));
    var ca = (X509Certificate) f.generateCertificate(new FileInputStream(a[2]));
    var leaf = (X509Certificate) f.generateCertificate(new FileInputStream(a[3]));
    var crls = new ArrayList<CRL>();
    for (int i = 4; i < a.length; i++) crls.add(f.generateCRL(new FileInputStream(a[i])));
    var p = new PKIXParameters(Set.of(new TrustAnchor(root, null)));
    p.addCertStore(CertStore.getInstance("Collection", new CollectionCertStoreParameters(crls)));
    CertPathValidator.getInstance("PKIX").validate(f.generateCertPath(List.of(leaf, ca)), p);
  }
}
"""
GO = """
package main
import ("crypto/x509"; "encoding/pem"; "os")
func block(name string) []byte {
  data, err := os.ReadFile(name); if err != nil { panic(err) }
  found, _ := pem.Decode(data); if found == nil { return data }
  return found.Bytes
}
func certificate(name string) *x509.Certificate {
  c, err := x509.ParseCertificate(block(name)); if err != nil { panic(name + ": " + err.Error()) }
  return c
}
func main() {
  a := os.Args[1:]
  if a[0] == "parse" { for _, name := range a[1:] { certificate(name) }; return }
  root, ca, leaf := certificate(a[1]), certificate(a[2]), certificate(a[3])
  if err := ca.CheckSignatureFrom(root); err != nil { panic(err) }
  if err := leaf.CheckSignatureFrom(ca); err != nil { panic(err) }
  for i, issuer := range []*x509.Certificate{ca, root} {
    crl, err := x509.ParseRevocationList(block(a[4+i])); if err != nil { panic(err) }
    if err := crl.CheckSignatureFrom(issuer); err != nil { panic(err) }
  }
}
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the drill has no options."""
    del parser


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Make the certificates, and give them to each program."""
    del options
    missing = [f"{name} (package {package})" for name, package in PACKAGES.items() if shutil.which(name) is None]
    if missing:
        raise CannotRun(f"these programs are missing: {', '.join(missing)}. Install the packages")
    with tempfile.TemporaryDirectory(prefix="cascade-strangers-") as name:
        folder = Path(name)
        figures: dict[str, Figure] = {}
        findings: list[str] = []
        for what, command in _commands(folder):
            say(what)
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
            )
            figures[what] = "accepted" if done.returncode == 0 else "refused"
            if done.returncode != 0:
                findings.append(f"{what}: {(done.stdout + done.stderr).strip()[-400:]}")
    return Outcome(figures, tuple(findings))


def _commands(folder: Path) -> list[tuple[str, list[str]]]:
    """Make the files, and return each check with its command."""
    home = folder / "cloud"
    if main(["init", "--dir", str(home)]) or main(["pki", "crl", "--dir", str(home), "--out", str(folder)]):
        raise CannotRun("`cascade init` or `cascade pki crl` failed. Its message is above")
    files = []
    for name, (der, _) in asyncio.run(specimens()).items():
        (folder / f"{name}.pem").write_bytes(pem(der))
        files.append(f"{name}.pem")
    (folder / "Chain.java").write_text(JAVA)
    (folder / "chain.go").write_text(GO)
    certs = home / "breakwater" / "certs"
    chain = [str(certs / "root.pem"), str(certs / "services-ca.pem"), str(home / "breakwater" / "tls" / "chain.pem")]
    crls = ["services-1.1.crl", "root-1.1.crl"]
    found: list[tuple[str, list[str]]] = []
    for file in files:
        # The specimens of one CA share a serial number, so each has a database.
        database = f"sql:{file}.nss"
        (folder / f"{file}.nss").mkdir()
        found += [
            (f"NSS makes a database for {file}", ["certutil", "-N", "-d", database, "--empty-password"]),
            (f"openssl parses {file}", ["openssl", "x509", "-in", file, "-noout", "-text"]),
            (f"certtool parses {file}", ["certtool", "--certificate-info", "--infile", file]),
            (f"NSS imports {file}", ["certutil", "-A", "-d", database, "-n", file, "-t", ",,", "-a", "-i", file]),
            (f"node.js parses {file}", ["node", "-e", f"new (require('crypto').X509Certificate)({_read(file)})"]),
        ]
    verify = ["openssl", "verify", "-x509_strict", "-crl_check_all", "-CAfile", chain[0], "-untrusted", chain[1]]
    return [
        *found,
        ("Java parses all", ["java", "Chain.java", "parse", *files]),
        ("Go parses all", ["go", "run", "chain.go", "parse", *files]),
        ("openssl, chain and CRLs", [*verify, *(f"-CRLfile={crl}" for crl in crls), chain[2]]),
        ("Java, chain and CRLs", ["java", "Chain.java", "chain", *chain, *crls]),
        ("Go, chain and CRLs", ["go", "run", "chain.go", "chain", *chain, *crls]),
    ]


def _read(file: str) -> str:
    return f"require('fs').readFileSync('{file}')"
