"""Wiring: the probes of an issuer's dependencies: database, CA keys, CRLs and OCSP responders."""

from collections.abc import Callable
from datetime import datetime, timedelta

from cloud.breakwater.authorities import Authorities
from cloud.breakwater.errors import AuthorityNotCurrent, IssuerError
from cloud.breakwater.issuance.issuing import Issuing
from cloud.breakwater.revocation.ocsp_responder import OcspResponder
from cloud.breakwater.store import Stores
from cloud.http.readiness import DatabaseProbe, Fault, Readiness
from cloud.storage import StorageError

CRL_LATE = timedelta(minutes=15)
"""How long a CRL may be due before it counts as overdue. The publisher tries again every few seconds."""


def issuer_readiness(
    stores: Stores,
    issuing: Issuing,
    authorities: Authorities,
    ocsp_responder: OcspResponder,
    now: Callable[[], datetime],
) -> Readiness:
    """Return the readiness of an issuer. CRLs and responders only degrade it: another replica has the same."""

    async def write() -> None:
        await stores.authorities.prove_writable()

    async def ca_keys() -> tuple[Fault, ...]:
        try:
            await issuing.ready()
        except AuthorityNotCurrent as error:
            return (Fault("ca", "ca_not_valid", str(error), error.next_step),)
        except IssuerError as error:
            return (
                Fault(
                    "ca",
                    "ca_unavailable",
                    str(error),
                    "Check the token and its PIN file, or the files in `keys/`. `cascade pki status` shows the CAs.",
                ),
            )
        except StorageError:
            return ()  # the probe of the database says so
        return ()

    async def crls() -> tuple[Fault, ...]:
        late = []
        try:
            for row in authorities.rows():
                due = await stores.metrics_reads.next_publication(row.id)
                if row.state != "revoked" and row.ca != "root" and due is not None and now() > due + CRL_LATE:
                    late.append(f"a CRL of {row.id} was due at {due.isoformat(timespec='seconds')}")
        except StorageError:
            return ()
        next_step = "Read the log of this service for the reason. `cascade pki crl` shows and publishes CRLs."
        return (Fault("crl", "crl_overdue", "; ".join(late), next_step, needed=False),) if late else ()

    async def responders() -> tuple[Fault, ...]:
        texts = [f"{authority}: {why}" for authority, why in sorted(ocsp_responder.overdue().items())]
        next_step = "Read the log of this service. A responder needs the key of its CA."
        return (Fault("ocsp", "ocsp_signer_overdue", "; ".join(texts), next_step, needed=False),) if texts else ()

    return Readiness(DatabaseProbe(stores.issuance.ping, write), ca_keys, crls, responders)
