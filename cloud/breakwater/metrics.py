"""Metrics: what the issuer counts. Labels are profiles, codes and authorities; never an id of a tenant or node."""

from collections.abc import Callable, Mapping

from cloud.http.metrics import Metrics


class IssuerMetrics:
    """The issuer's counters, in the registry of its service."""

    def __init__(self, registry: Metrics) -> None:
        self.registry = registry
        self.issued = registry.counter("issued", "Certificates issued, repeats not counted", "profile", "authority")
        self.repeated = registry.counter("repeated", "Requests answered with a stored certificate", "profile")
        self.refused = registry.counter("refused", "Requests refused", "code")
        self.revoked = registry.counter("revoked", "Certificates revoked", "kind", "reason")
        self.orphaned = registry.counter("orphaned", "Records given up without a certificate")
        self.database_up = registry.gauge("database_up", "1 when the database answered the last look")
        self.records = registry.gauge("records", "Certificates of nodes and services by state", "state")

    def watch(
        self,
        signatures: Callable[[], Mapping[str, float]],
        active_seconds: Callable[[], Mapping[str, float]],
        crl_age_seconds: Callable[[], Mapping[str, float]],
    ) -> None:
        """Numbers that others know: asked for when somebody looks."""
        self.registry.read("signatures", "Uses of CA keys since the start", "authority", signatures)
        self.registry.read(
            "authority_expires_seconds", "Until an active authority's certificate ends", "authority", active_seconds
        )
        self.registry.read(
            "crl_age_seconds", "Age of the oldest published CRL of an authority", "authority", crl_age_seconds
        )
