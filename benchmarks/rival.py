"""Benchmark: the cost of another issuer, `cfssl serve` (Debian's golang-cfssl), with a database on the same PostgreSQL.

cfssl does less: it uses plain HTTP here, checks no caller, and writes once, after the signature.
"""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from benchmarks import wire
from benchmarks.floor import new_id, new_keys, self_signed
from benchmarks.host import Postgres, other_server
from benchmarks.world import World
from lab.postgres import ROLE
from lab.processes import free_ports

PATH = "/api/v1/cfssl/sign"
TABLE = """
CREATE TABLE certificates (serial_number bytea NOT NULL, authority_key_identifier bytea NOT NULL, ca_label bytea,
    status bytea NOT NULL, reason int, expiry timestamptz, revoked_at timestamptz, pem bytea NOT NULL,
    PRIMARY KEY(serial_number, authority_key_identifier))
"""
CONFIG = {"signing": {"default": {"usages": ["digital signature", "client auth"], "expiry": "12h"}}}


class _Sign(msgspec.Struct, frozen=True):
    certificate_request: str
    hostname: str


def _request(name: str) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    csr = builder.sign(new_keys(1)[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    return wire.post(PATH, _Sign(csr, name))


def _files(directory: Path, postgres: Postgres) -> list[str]:
    """Make a CA with a key of the same kind and a database for cfssl; return the arguments of `cfssl serve`."""
    directory.mkdir()
    database = postgres.create()
    postgres.execute(database, TABLE)
    source = f"host={postgres.socket} user={ROLE} dbname={database} sslmode=disable"
    (key,) = new_keys(1)
    ca = (
        self_signed("cfssl CA", key, timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.TraditionalOpenSSL
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    contents = {
        "ca": ca.public_bytes(serialization.Encoding.PEM),
        "ca-key": pem,
        "config": json.dumps(CONFIG).encode(),
        "db-config": json.dumps({"driver": "postgres", "data_source": source}).encode(),
    }
    arguments = []
    for option, content in contents.items():
        (directory / option).write_bytes(content)
        arguments += [f"-{option}", str(directory / option)]
    return arguments


def measure(world: World, postgres: Postgres, connections: Sequence[int], count: int) -> dict[int, wire.Load]:
    """Request certificates, each for a new key; the runs by number of connections."""
    port = free_ports(1)
    command = ["cfssl", "serve", "-loglevel", "3", "-address", "127.0.0.1", "-port", str(port)]
    command += _files(world.directory / "cfssl", postgres)
    loads = {}
    with other_server(world, "cfssl", command, port) as process:
        for each in connections:
            asks = [_request(new_id("node")) for _ in range(count + wire.WARM_UP)]
            loads[each] = wire.run(
                asks, pid=process.pid, port=port, context=lambda: None, connections=each, behind=postgres.cpu_seconds
            )
    return loads
