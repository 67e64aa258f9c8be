"""Values: the API documents of Breakwater, one a listener."""

from cloud.breakwater.routes import public_routes, routes
from cloud.breakwater.routes.problems import CODES
from cloud.events.routes import TAG as EVENTS
from cloud.http.openapi import Api, ApiDocument, Tag

EXAMPLES = {
    "generation": 2,
    "up_to": 1,
    "request": "req-1",
    "spki_sha256": "5f" * 32,
    "serial": "1f2e3d",
    "issuer": "9a" * 20,
    "status": "ok",
}
"""Field name -> value, for examples of bodies. Fields that are not here get an example of their type."""

API = Api(
    name="breakwater",
    title="Cascade Breakwater",
    text="Certificates of nodes and services: issuance, renewal by EST, closing of generations, and events for "
    "other services.\n\nThe listener speaks HTTP/1.1 over TLS. A refusal is a problem document (RFC 9457); clients decide by its "
    "`code`. The head of a request has at most 16 kB and its body at most 64 kB; a larger one is answered `too_large`. "
    "A method that a path does not have is answered `method_not_allowed`.",
    tags=(
        Tag("generations", "Fabric opens and closes generations of nodes.", ("/v1/generations",)),
        Tag("certificates", "Fabric orders certificates for nodes.", ("/v1/certificates",)),
        Tag("est", "Enrolment over Secure Transport (RFC 7030).", ("/.well-known/est",)),
        EVENTS,
        Tag("service", "State of the service.", ("/healthz", "/readyz")),
    ),
    codes=CODES,
    examples=EXAMPLES,
)

PUBLIC = Api(
    name="breakwater-public",
    title="Cascade Breakwater, public listener",
    text="CRLs, OCSP responses and CA certificates.\n\nThe listener speaks plain HTTP/1.1. Everything that it sends is "
    "signed.",
    tags=(
        Tag("crl", "Certificate revocation lists (RFC 5280).", ("/crl/",)),
        Tag("ocsp", "Status of a certificate (RFC 6960).", ("/ocsp",)),
        Tag("ca", "Certificates of CAs.", ("/ca/",)),
        Tag("service", "State of the service.", ("/healthz",)),
    ),
    codes=CODES,
    examples=EXAMPLES,
)


def documents() -> dict[str, ApiDocument]:
    """The documents by name."""
    return {
        API.name: ApiDocument(routes(), API),
        PUBLIC.name: ApiDocument(public_routes(), PUBLIC),
    }
