"""Settings of Breakwater: where its CAs, certificates and identity lie, and what it publishes about revocation.

Unsafe lives of CRLs refuse to start, in every mode; each rule has a name, as the gates of production have.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, ClassVar

import msgspec

from cloud.breakwater.keys.pkcs11 import TokenSettings
from cloud.process.gates import GateRefused, check_gates
from cloud.process.settings import ServiceSettings, SettingsError

NO_ADDRESS = "http://pki.invalid"
"""What certificates name when nobody said where CRLs are: RFC 2606 keeps it free of hosts. Development only."""

Hours = Annotated[int, msgspec.Meta(ge=1, le=720)]


class CrlSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a CRL is good, how often a new one is made, and the longest outage of this service it must survive.

    Bounds: a verifier waits a period at most for a scheduled CRL, gets over a day without the issuer, and can be shown
    an old CRL for 30 days at most. How the three go together is in `RULES`.
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

    `ca` has `keys/` and, of an installation's first generation, `certs/`; `tls` has the identity. `public_url` is where
    the world reaches the listener with the purpose "pki": it stands in every certificate and must never change while
    one of them lives. `token` names the PKCS#11 token that new CA keys are made on; without it they are files.
    """

    PURPOSES: ClassVar[tuple[str, ...]] = ("api", "pki")
    ca: str = "."
    tls: str = "tls"
    public_url: str = ""
    crl: CrlSettings = CrlSettings()
    token: TokenSettings | None = None

    @property
    def pki_url(self) -> str:
        """`public_url`, or where the "pki" listener is on this machine."""
        if self.public_url:
            return self.public_url.rstrip("/")
        for where in self.listeners:
            if where.purpose == "pki" and not where.tls:
                host = f"[{where.host}]" if ":" in where.host else where.host
                return f"http://{host}:{where.port}"
        return NO_ADDRESS


class SettingsUnsafe(SettingsError):
    """The settings would break a promise; `rule` is its name."""

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
        return "public_url does not begin with http:// (RFC 5280 section 8: https would need what is fetched there)"
    return ""


def _public_url_is_set(settings: BreakwaterSettings) -> str:
    return "" if settings.public_url else "public_url is empty: certificates would not say where their CRL is"


def _pki_listener_exists(settings: BreakwaterSettings) -> str:
    found = any(where.purpose == "pki" for where in settings.listeners)
    return "" if found else 'no listener has the purpose "pki": nobody could ask for CRLs and OCSP'


Rule = Callable[[BreakwaterSettings], str]

RULES: dict[str, Rule] = {
    "crl-outlives-its-period": _crl_outlives_its_period,
    "crl-outlives-an-outage": _crl_outlives_an_outage,
    "public-url-is-plain": _public_url_is_plain,
}
"""Name to rule, in every mode; a rule returns what is wrong, or nothing."""
GATES: dict[str, Rule] = {
    "public-url-is-set": _public_url_is_set,
    "pki-listener-exists": _pki_listener_exists,
}
"""Rules of production beside those that every service has."""


def check_rules(settings: BreakwaterSettings) -> None:
    """The rules alone: what holds for whoever publishes, also beside a service that cannot start.

    Raises:
        SettingsUnsafe: the first rule that is broken.
    """
    for rule, check in RULES.items():
        if wrong := check(settings):
            raise SettingsUnsafe(rule, wrong)


def check_settings(settings: BreakwaterSettings) -> None:
    """Refuse to start on settings that a rule or gate names.

    Raises:
        SettingsUnsafe, GateRefused: the first rule that is broken.
    """
    check_rules(settings)
    check_gates(settings)
    if settings.mode == "production":
        for rule, gate in GATES.items():
            if wrong := gate(settings):
                raise GateRefused(rule, wrong)
