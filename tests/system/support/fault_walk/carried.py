"""Helper of the fault walk: a request that the machine of a site writes with its TPM, for an operator to answer."""

import os
from datetime import UTC, datetime
from pathlib import Path

import trio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from node.config import AGENT_VERSION
from node.disk.identity import IdentityStore
from node.exchanges.session import fresh_nonce
from node.hwbind import keys
from node.hwbind.tpm import Tpm
from node.trust import published
from protocol.airgap.forms import to_file
from protocol.airgap.request import FORMAT, ClockEvidence, Request, assembled, body_of, signed_bytes
from protocol.ids import AirgapRequestId, make_id
from tests.system.support.fault_walk.site import Interrupted, Site


def request_of(site: Site) -> Path:
    """The file of the machine's outstanding request. The first call makes the request."""
    path = site.directory / "request.json"
    if not path.exists():
        path.write_bytes(trio.run(_made, site))
    return path


async def _made(site: Site) -> bytes:
    identity = IdentityStore(site.machine.state).current()
    if identity is None:
        raise Interrupted("no identity")
    tpm, trust, now = Tpm(site.lane.chip.tcti), published.load(site.machine.state), datetime.now(UTC)
    public = identity.node_key.public_key()
    try:
        made = Request(
            format=FORMAT,
            kind="refresh",
            request=AirgapRequestId(make_id("agr", int(now.timestamp() * 1000), os.urandom(10))),
            public_key=public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            nonce=fresh_nonce(),
            agent_version=AGENT_VERSION,
            made_at=now,
            clock=ClockEvidence(low=now, high=now, wall=now, tpm=await tpm.run(keys.read_clock)),
            pin=trust.pin,
            trust_version=trust.version,
            root_version=trust.pin.version,
            lease_version=2,
            tenant=identity.tenant,
            node=identity.node,
            generation=identity.generation,
            device_certificate=identity.chain[0],
        )
        body = body_of(made)
        signed = signed_bytes(body, made.request, public)
        signature = await tpm.run(lambda esys: keys.sign(esys, identity.node_key, signed))
    finally:
        await tpm.aclose()
    return to_file(assembled(body, signed, signature))
