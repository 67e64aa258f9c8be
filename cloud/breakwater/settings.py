"""Values: Breakwater's settings, and the rules that they have to keep.

The settings name the folders of its CAs and its certificate, and the CRL schedule. In every mode Breakwater refuses to
start with an unsafe CRL schedule. Each rule has a stable name, like the production gates.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, ClassVar, Self

import msgspec

from cloud.breakwater.keys.pkcs11 import TokenSettings
from cloud.crypto.keyfile import passed_credential
from cloud.process.gates import GateRefused, check_gates
from cloud.process.settings import ServiceSettings, SettingsError

NO_ADDRESS = "http://pki.invalid"
"""The address in certificates when no public address is set. RFC 2606 reserves it. Only development allows this."""

Hours = Annotated[int, msgspec.Meta(ge=1, le=720)]


class CrlSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a CRL is valid, how often a new one is published, and the longest outage that it has to survive.

    Bounds: A scheduled CRL is published at least once a day. CRLs survive an outage of at least a day. An attacker can
    replay an old CRL for at most 30 days. `RULES` checks the three values against each other.
    """

    life_hours: Hours = 168
    period_hours: Annotated[int, msgspec.Meta(ge=1, le=24)] = 24
    outage_hours: Annotated[int, msgspec.Meta(ge=24, le=720)] = 72

    @property
    def life(self) -> timedelta:
        return timedelta(hours=self.life_hours)

    @property
    def period(self) -> timedelta:
        return timedelta(hours=self.period_hours)


class BreakwaterSettings(ServiceSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`settings.toml` of Breakwater, written by `cascade init`.

    `ca` is a folder with `keys/`, and with `certs/` for the first generation of CAs. `tls` is the folder of
    Breakwater's own certificate and key. `public_url` is the public address of the listener with the purpose "pki".
    Certificates contain it, so it must not change while one of them is valid. `token` is the PKCS#11 token for new CA
    keys. Without `token`, new CA keys are files.
    """

    PURPOSES: ClassVar[tuple[str, ...]] = ("api", "pki", "metrics")
    ca: str = "."
    tls: str = "tls"
    public_url: str = ""
    crl: CrlSettings = CrlSettings()
    token: TokenSettings | None = None

    def with_credentials(self) -> Self:
        """As for every service; and the credential `pkcs11-pin` has the PIN of the token."""
        settings = super().with_credentials()
        if self.token is None:
            return settings
        pin_file = passed_credential("pkcs11-pin", self.token.pin_file)
        return msgspec.structs.replace(
            settings,
            token=msgspec.structs.replace(self.token, pin_file=pin_file),
            secret_files=(*settings.secret_files, self.token.pin_file),
        )

    @property
    def pki_url(self) -> str:
        """`public_url`, or else the local address of the "pki" listener, or `NO_ADDRESS`."""
        if self.public_url:
            return self.public_url.rstrip("/")
        for where in self.listeners:
            if where.purpose == "pki" and not where.tls:
                host = f"[{where.host}]" if ":" in where.host else where.host
                return f"http://{host}:{where.port}"
        return NO_ADDRESS


class SettingsUnsafe(SettingsError):
    """The settings break a rule. `rule` is its stable name."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"these settings are not safe ({rule}): {detail}")
        self.rule = rule


def _crl_outlives_its_period(settings: BreakwaterSettings) -> str:
    crl = settings.crl
    if crl.life_hours < 2 * crl.period_hours:
        return f"crl.life_hours is {crl.life_hours}, less than twice crl.period_hours ({crl.period_hours})"
    return ""


def _crl_outlives_an_outage(settings: BreakwaterSettings) -> str:
    crl = settings.crl
    least = crl.outage_hours + 2 * crl.period_hours
    if crl.life_hours < least:
        return f"crl.life_hours is {crl.life_hours}, less than crl.outage_hours and two periods ({least})"
    return ""


def _public_url_is_plain(settings: BreakwaterSettings) -> str:
    if settings.public_url and not settings.public_url.startswith("http://"):
        return "public_url does not begin with http:// (RFC 5280 section 8 advises against https)"
    return ""


def _public_url_is_set(settings: BreakwaterSettings) -> str:
    return "" if settings.public_url else "public_url is empty; certificates need the address of their CRL"


def _pki_listener_exists(settings: BreakwaterSettings) -> str:
    found = any(where.purpose == "pki" for where in settings.listeners)
    return "" if found else 'no listener has the purpose "pki"; clients could not get CRLs and OCSP answers'


Rule = Callable[[BreakwaterSettings], str]

RULES: dict[str, Rule] = {
    "crl-outlives-its-period": _crl_outlives_its_period,
    "crl-outlives-an-outage": _crl_outlives_an_outage,
    "public-url-is-plain": _public_url_is_plain,
}
"""Rules for every mode, by name. A rule returns the fault, or an empty text."""
GATES: dict[str, Rule] = {
    "public-url-is-set": _public_url_is_set,
    "pki-listener-exists": _pki_listener_exists,
}
"""Production gates of Breakwater, in addition to the gates of all services."""


def check_rules(settings: BreakwaterSettings) -> None:
    """Check `RULES` without the production gates.

    Local commands use this. They have to work even when a gate prevents the service from starting.

    Raises:
        SettingsUnsafe: `rule` is the first broken rule.
    """
    for rule, check in RULES.items():
        if wrong := check(settings):
            raise SettingsUnsafe(rule, wrong)


def check_settings(settings: BreakwaterSettings) -> None:
    """Check `RULES` and, in production, the gates.

    Raises:
        SettingsUnsafe, GateRefused: the first broken rule or gate.
    """
    check_rules(settings)
    check_gates(settings)
    if settings.mode == "production":
        for rule, gate in GATES.items():
            if wrong := gate(settings):
                raise GateRefused(rule, wrong)
