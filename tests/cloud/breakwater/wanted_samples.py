"""A fixed `Wanted` for each certificate profile, with the CAs and keys for it."""

from datetime import timedelta
from ipaddress import ip_address

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.pkix import profiles
from cloud.breakwater.pkix.csr import RequestedKey, describe_key
from cloud.breakwater.pkix.profiles import Distribution, Issuer, Wanted
from protocol.ids import ServiceSpiffeId
from tests.cloud.breakwater.chains import NOW as START
from tests.cloud.breakwater.chains import SPIFFE, TRUST_DOMAIN

KEY = describe_key(ec.derive_private_key(5, ec.SECP256R1()).public_key())
OTHER_KEY = describe_key(ec.derive_private_key(6, ec.SECP256R1()).public_key())
P384_KEY = describe_key(ec.derive_private_key(7, ec.SECP384R1()).public_key())
SERIAL = profiles.make_serial(b"\x11" * 20)
ROOT = profiles.self_issuer(profiles.want_root("root", P384_KEY, SERIAL, START), "root-1")
OLD_ROOT = profiles.self_issuer(profiles.want_root("old root", P384_KEY, SERIAL, START), "root-0")


def issuing(ca: profiles.CaName, key: RequestedKey = OTHER_KEY) -> Wanted:
    return profiles.want_issuing(f"{TRUST_DOMAIN} {ca} CA 1", key, SERIAL, START, ROOT, ca, TRUST_DOMAIN)


def below(name: profiles.CaName, key: RequestedKey = OTHER_KEY) -> Issuer:
    return msgspec.structs.replace(profiles.self_issuer(issuing(name, key), f"{name}-1"), name=name)


NODES, SERVICES = below("nodes"), below("services")
WHERE = Distribution("http://pki.test/crl/nodes-1/0.crl", "http://pki.test/ocsp", "http://pki.test/ca/nodes-1.cer")
AT_SERVICES = Distribution(
    "http://[::1]:8443/x/crl/services-1/77.crl", "http://pki.test/ocsp", "http://pki.test/ca/services-1.cer"
)
DEVICE = profiles.want_device(SPIFFE, 3, KEY, SERIAL, START, START + timedelta(days=90), NODES, WHERE)
SESSION = profiles.want_session(SPIFFE, 3, KEY, SERIAL, START, START + timedelta(days=90), NODES)
SERVICE = profiles.want_service(
    ServiceSpiffeId(TRUST_DOMAIN, "fabric"),
    ("localhost",),
    (ip_address("127.0.0.1"),),
    KEY,
    SERIAL,
    START,
    SERVICES,
    AT_SERVICES,
)
ROOT_WANTED = profiles.want_root("root", P384_KEY, SERIAL, START)
CROSS = profiles.want_cross(ROOT, P384_KEY, SERIAL, START, OLD_ROOT)
RESPONDER = profiles.want_responder(KEY, SERIAL, START, NODES)
CLEAN = {"device": (DEVICE, NODES), "session": (SESSION, NODES), "service": (SERVICE, SERVICES)}
CLEAN |= {"root": (ROOT_WANTED, ROOT), "cross": (CROSS, OLD_ROOT), "responder": (RESPONDER, NODES)}
CLEAN |= {"nodes CA": (issuing("nodes", KEY), ROOT), "services CA": (issuing("services", KEY), ROOT)}
