"""`cloud.breakwater.settings`: the rules and production gates."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloud.breakwater.settings import (
    GATES,
    NO_ADDRESS,
    RULES,
    BreakwaterSettings,
    CrlSettings,
    SettingsUnsafe,
    check_settings,
)
from cloud.crypto.keyfile import write_secret
from cloud.process.gates import GateRefused
from cloud.process.settings import ListenerSettings, SettingsError, load_settings

PKI = ListenerSettings("127.0.0.1", 8443, tls=False, purpose="pki")


@pytest.fixture
def good(tmp_path: Path) -> BreakwaterSettings:
    write_secret(tmp_path / "passphrase", b"correct horse battery staple")
    return BreakwaterSettings(
        trust_domain="cascade.test",
        public_url="http://pki.cascade.test",
        listeners=(ListenerSettings(), PKI),
        base=str(tmp_path),
    )


def test_a_credential_replaces_the_pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'trust_domain = "cascade.test"\n[token]\nmodule = "/m.so"\nlabel = "cas"\npin_file = "pin"\n'
    (tmp_path / "settings.toml").write_text(text)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    before = load_settings(tmp_path / "settings.toml", BreakwaterSettings)
    write_secret(tmp_path / "pkcs11-pin", b"1234")
    after = load_settings(tmp_path / "settings.toml", BreakwaterSettings)
    assert before.token is not None
    assert after.token is not None
    assert (before.token.pin_file, after.token.pin_file) == ("pin", "credential:pkcs11-pin")
    assert after.secret_files == ("passphrase", "pin")


def test_the_defaults_are_safe(good: BreakwaterSettings) -> None:
    check_settings(good)
    assert good.crl.life - good.crl.period >= timedelta(days=3), "a long weekend"


Changes = dict[str, Any]

UNSAFE: dict[str, Changes] = {
    "crl-outlives-its-period": {"crl": CrlSettings(life_hours=40, period_hours=24, outage_hours=24)},
    "crl-outlives-an-outage": {"crl": CrlSettings(life_hours=100, period_hours=24, outage_hours=72)},
    "public-url-is-plain": {"public_url": "https://pki.cascade.test"},
}


@pytest.mark.parametrize("mode", ["production", "development"])
@pytest.mark.parametrize("rule", RULES)
def test_unsafe_settings_refuse_to_start_in_every_mode(good: BreakwaterSettings, rule: str, mode: str) -> None:
    with pytest.raises(SettingsUnsafe) as caught:
        check_settings(msgspec.structs.replace(good, mode=mode, **UNSAFE[rule]))
    assert caught.value.rule == rule


def test_the_edge_of_what_is_safe(good: BreakwaterSettings) -> None:
    for life, works in ((119, False), (120, True)):
        settings = msgspec.structs.replace(good, crl=CrlSettings(life, 24, 72))
        if works:
            check_settings(settings)
        else:
            with pytest.raises(SettingsUnsafe):
                check_settings(settings)


UNFIT: dict[str, Changes] = {
    "public-url-is-set": {"public_url": ""},
    "pki-listener-exists": {"listeners": (ListenerSettings(),)},
}


@pytest.mark.parametrize("rule", GATES)
def test_production_alone_wants_an_address_and_a_listener(good: BreakwaterSettings, rule: str) -> None:
    settings = msgspec.structs.replace(good, **UNFIT[rule])
    with pytest.raises(GateRefused) as caught:
        check_settings(settings)
    assert caught.value.rule == rule
    check_settings(msgspec.structs.replace(settings, mode="development"))


def test_the_address_in_certificates(good: BreakwaterSettings) -> None:
    assert msgspec.structs.replace(good, public_url="http://pki.test/x/").pki_url == "http://pki.test/x"
    assert msgspec.structs.replace(good, public_url="").pki_url == "http://127.0.0.1:8443"
    six = (ListenerSettings("::1", 8443, tls=False, purpose="pki"),)
    assert msgspec.structs.replace(good, public_url="", listeners=six).pki_url == "http://[::1]:8443"
    assert msgspec.structs.replace(good, public_url="", listeners=()).pki_url == NO_ADDRESS


@pytest.mark.parametrize(
    "line",
    [
        "life_hours = 0",
        "life_hours = 721",
        "period_hours = 0",
        "period_hours = 25",
        "outage_hours = 23",
        "life_days = 3",
    ],
)
def test_values_out_of_bounds_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(f'trust_domain = "cascade.test"\n\n[crl]\n{line}\n')
    with pytest.raises(SettingsError):
        load_settings(path, BreakwaterSettings)
