"""`cascade pki` as real commands, beside a running installation and beside a stopped one.

A running installation serves the result of each command at once.
"""

import subprocess
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import wait_until
from lab.tpm import SoftTpm
from protocol.encoding import sha256_hex


def pki(cloud: Cloud, *command: str, expect: int = 0) -> Any:
    return cloud.run("pki", *command, "--dir", str(cloud.directory), expect=expect)


def published(cloud: Cloud, shard: str) -> x509.CertificateRevocationList:
    authority, number = shard.rsplit(".", 1)
    url = f"http://127.0.0.1:{cloud.port + 3}/crl/{authority}/{number}.crl"
    return x509.load_der_x509_crl(httpx.get(url, trust_env=False).raise_for_status().content)


def test_commands_beside_a_running_issuer_and_beside_a_stopped_one(cloud: Cloud, tmp_path: Path) -> None:
    status = pki(cloud, "status")
    assert {row["id"]: (row["state"], row["has_key"]) for row in status["authorities"]} == {
        "nodes-1": ("active", True),
        "root-1": ("active", False),
        "services-1": ("active", True),
    }
    renewed = pki(cloud, "renew", "fabric")
    serial = int(pki(cloud, "revoke", "--serial", renewed["serial"], "--reason", "superseded")["serials"][0], 16)
    assert published(cloud, "services-1.1").get_revoked_certificate_by_serial_number(serial) is not None
    (shard, _) = pki(cloud, "crl", "--publish")
    number = published(cloud, "services-1.1").extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    assert number >= shard["number"]
    assert pki(cloud, "check", "--pkilint", "3")["counts"] == {}
    assert pki(cloud, "renew", "fabric")["serial"] != renewed["serial"]
    cloud.down()
    assert pki(cloud, "status")["crls"] == 1
    assert pki(cloud, "check")["counts"] == {}
    assert pki(cloud, "crl", "--publish")[0]["number"] > number
    assert pki(cloud, "export", "--out", str(tmp_path / "export"))["certificates"] >= 4
    cloud.up()
    assert pki(cloud, "check")["counts"] == {}


def test_a_secret_enrols_a_service_with_curl_and_openssl(cloud: Cloud, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    pki(cloud, "issue", "headwaters", "--out", str(secret), "--host", "127.0.0.1")
    key, csr = tmp_path / "key.pem", tmp_path / "csr.der"
    made = ("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key))
    asked = ("req", "-new", "-key", str(key), "-subj", "/CN=headwaters", "-outform", "DER", "-out", str(csr))
    for command in (made, asked):
        subprocess.run(["openssl", *command], check=True, capture_output=True, timeout=20)
    login = tmp_path / "curl"
    login.write_text(f'user = "headwaters:{secret.read_text().strip()}"\n')
    body = tmp_path / "csr.b64"
    body.write_bytes(subprocess.run(["base64", str(csr)], check=True, capture_output=True, timeout=20).stdout)
    url = f"https://127.0.0.1:{cloud.port + 1}/.well-known/est/simpleenroll"
    root = str(cloud.directory / "breakwater" / "certs" / "root.pem")
    fixed = ("--silent", "--show-error", "--fail", "--config", str(login), "--cacert", root)
    sent = ("-H", "Content-Type: application/pkcs10", "-H", "Content-Transfer-Encoding: base64")
    answer = subprocess.run(
        ["curl", *fixed, *sent, "--data-binary", f"@{body}", url], check=True, capture_output=True, timeout=20
    )
    printed = subprocess.run(
        ["openssl", "pkcs7", "-inform", "DER", "-print_certs"],
        input=subprocess.run(["base64", "-d"], input=answer.stdout, check=True, capture_output=True, timeout=20).stdout,
        check=True,
        capture_output=True,
        timeout=20,
    )
    leaf = tmp_path / "leaf.pem"
    leaf.write_bytes(printed.stdout)
    report = pki(cloud, "check", "--certificates", str(leaf), "--pkilint", "10")
    assert report["counts"] == {}
    assert pki(cloud, "revoke", "--certificate", str(leaf))["serials"]
    assert pki(cloud, "status")["secrets_open"] == 0


def test_a_nodes_authority_is_replaced_under_a_running_fleet(
    cloud: Cloud, machine: Machine, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    """The activation is refused until the CA is published and the node has adopted it. An override needs a reason."""
    machine.run("activate", str(cloud.code(cloud.tenant(chips[0]))))
    machine.up()
    machine.wait_state("active")
    offline = cloud.directory / "offline"
    passphrase = cloud.directory / "secrets" / "passphrase"
    request, answer = tmp_path / "nodes-2.csr.pem", tmp_path / "nodes-2.pem"
    pki(cloud, "rotate", "request", "nodes", "--out", str(request))
    root = cloud.directory / "breakwater" / "certs" / "root.pem"
    file = tmp_path / "ceremony.toml"
    file.write_text(
        f'type = "intermediate"\nauthority = "nodes-2"\ntrust_domain = "cascade.internal"\ncertificate = "{answer}"\n'
        f'request = {{ path = "{request}", sha256 = "{sha256_hex(request.read_bytes())}" }}\n'
        f'[root]\nauthority = "root-1"\nkey = "{offline / "root-ca.key.pem"}"\npassphrase_file = "{passphrase}"\n'
        f'certificate = {{ path = "{root}", sha256 = "{sha256_hex(root.read_bytes())}" }}\n'
    )
    cloud.run("pki", "ceremony", str(file))
    assert pki(cloud, "rotate", "import", str(answer))["state"] == "prepared"
    activate = ("rotate", "activate", "nodes-2")
    assert pki(cloud, *activate, expect=77)["error"]["code"] == "not_published"

    now, signed = tmp_path / "now", tmp_path / "signed"
    cloud.run("trust", "show", "--export", str(now))
    key = ("--passphrase-file", str(passphrase), "--key", str(offline / "tuf-targets.key.pem"))
    added = ("--add-issuer", f"nodes:{answer}")
    cloud.run("trust", "sign", "--from", str(now), "--out", str(signed), *key, *added)
    machine.down()
    cloud.run("trust", "publish", str(signed))
    refusal = pki(cloud, *activate, expect=77)["error"]
    assert (refusal["code"], "0 of 1 nodes" in refusal["text"]) == ("adoption_incomplete", True), refusal
    forced = pki(cloud, *activate, "--override", "--reason", "nodes-1 was copied")
    assert (forced["state"], forced["changed"]) == ("active", True)
    ((detail,),) = cloud.rows("breakwater", "SELECT detail FROM audit WHERE action = 'authority.activate'")
    assert detail == "override: nodes-1 was copied"
    assert pki(cloud, "rotate", "taint", "nodes-1", expect=77)["error"]["code"] == "still_needed"
    machine.up()
    machine.wait_state("active")
    wait_until("a session certificate from the new CA", lambda: _issued_by(cloud, "nodes-2"))
    assert pki(cloud, "check")["counts"] == {}


def _issued_by(cloud: Cloud, authority: str) -> bool:
    return bool(cloud.rows("breakwater", "SELECT 1 FROM certificate WHERE authority = ? AND node <> ''", authority))
