"""Values: what other programs cannot do with certificates of Cascade, for reasons of their own.

`docs/pki.md` has the same rows, with the reason and what to do instead. The drill finds a row that is no longer true,
and a refusal without a row.
"""

import msgspec

ENDS = ("session", "responder")
LISTED = ("device", "service")


class Limit(msgspec.Struct, frozen=True):
    """One row. Each of `checks` fails for each of `profiles`. `says` is in the program's own words about it."""

    program: str
    checks: tuple[str, ...]
    profiles: tuple[str, ...]
    says: str


LIMITS: tuple[Limit, ...] = (
    Limit("OpenSSL", ("crl",), ENDS, "different CRL scope"),
    Limit("Java", ("crl",), ENDS, "Could not determine revocation status"),
    Limit("node.js", ("crl",), ENDS, "UNABLE_TO_GET_CRL"),
    Limit("node.js", ("chain",), ("device", "responder"), "INVALID_PURPOSE"),
    Limit("node.js", ("crl", "crl demanded"), ("device",), "INVALID_PURPOSE"),
    Limit("node.js", ("ocsp",), LISTED, "no OCSP client"),
    Limit("GnuTLS", ("names",), ("issuing",), "The certificate is trusted"),
    Limit("GnuTLS", ("crl demanded",), LISTED, "The certificate is trusted"),
    Limit("NSS", ("chain",), ("device",), "Certificate type not approved"),
    Limit("NSS", ("crl", "crl demanded"), LISTED, "SEC_ERROR_CRL_UNKNOWN_CRITICAL_EXTENSION"),
    Limit("NSS", ("tls server crl",), ("service",), "SEC_ERROR_CRL_UNKNOWN_CRITICAL_EXTENSION"),
)


def limit_of(program: str, profile: str, check: str) -> Limit | None:
    """The row about a check of a profile, if there is one."""
    return next(
        (row for row in LIMITS if row.program == program and profile in row.profiles and check in row.checks), None
    )
