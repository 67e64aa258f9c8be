"""Breakwater's settings: where its CAs, certificates and identity lie, beside what every service is told."""

from cloud.settings import ServiceSettings


class BreakwaterSettings(ServiceSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`settings.toml` of Breakwater, written by `cascade init`. `ca` has `keys/` and `certs/`, `tls` the identity."""

    ca: str = "."
    tls: str = "tls"
