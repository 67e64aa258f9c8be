"""Metrics: the issuer's counters and gauges. Labels are profiles, codes and authorities, never tenants or nodes."""

from collections.abc import Callable, Mapping

from cloud.http.metrics import Metrics


class IssuerMetrics:
    """The issuer's counters and gauges, in the registry of its service."""

    def __init__(self, registry: Metrics) -> None:
        self.registry = registry
        self.issued = registry.counter("issued", "Certificates issued, without repeats", "profile", "authority")
        self.repeated = registry.counter("repeated", "Requests answered with a stored certificate", "profile")
        self.refused = registry.counter("refused", "Requests refused", "code")
        self.revoked = registry.counter("revoked", "Certificates revoked", "kind", "reason")
        self.orphaned = registry.counter("orphaned", "Records that were given up without a certificate")
        self.database_up = registry.gauge("database_up", "1 if the database answered the last query")
        self.records = registry.gauge("records", "Certificates of nodes and services by state", "state")

    def watch(
        self,
        signatures: Callable[[], Mapping[str, float]],
        active_seconds: Callable[[], Mapping[str, float]],
        crl_age_seconds: Callable[[], Mapping[str, float]],
        root_crl_seconds: Callable[[], Mapping[str, float]],
    ) -> None:
        """Register functions that return values by authority. The registry calls them at each scrape."""
        self.registry.read("signatures", "Uses of CA keys since the start of the process", "authority", signatures)
        self.registry.read(
            "authority_expires_seconds",
            "Seconds until the certificate of an active authority ends",
            "authority",
            active_seconds,
        )
        self.registry.read(
            "crl_age_seconds",
            "Age in seconds of the oldest published CRL of an authority",
            "authority",
            crl_age_seconds,
        )
        self.registry.read(
            "root_crl_expires_seconds",
            "Seconds until the published CRL of a root ends; a ceremony signs the next one",
            "authority",
            root_crl_seconds,
        )
