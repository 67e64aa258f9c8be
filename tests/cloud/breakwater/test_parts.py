"""`cloud.breakwater.parts`: makes the parts over an open engine, and closes the keys at the end."""

import inspect
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from cloud.breakwater.keys.pkcs11 import TokenSettings
from cloud.breakwater.parts import SERVICES, open_parts, sources_of
from cloud.breakwater.routes import public_routes, routes
from cloud.breakwater.settings import BreakwaterSettings
from cloud.crypto.keyfile import KeyFileError
from cloud.process.settings import load_settings
from tests.cloud.breakwater.support import FABRIC, PKI_URL, Issuer, ask, entropy, new_key, opening, sources_at


def named_parts() -> set[str]:
    """The names of all handlers' parameters that the wiring fills."""
    found = set()
    for router in (*routes(), *public_routes()):
        for methods in router.route_handler_method_map.values():
            for handler in methods.values():
                parameters = inspect.signature(unwrapped(handler)).parameters.values()
                found |= {each.name for each in parameters if "Dependency" in str(each.annotation)}
    return found


def unwrapped(handler: object) -> Callable[..., object]:
    function: Callable[..., object] = getattr(handler, "fn")  # noqa: B009  (handlers have no common type with it)
    return function


async def test_handlers_get_every_part_that_they_name(issuer: Issuer) -> None:
    services = issuer.parts.services()
    assert set(services) == set(SERVICES)
    assert None not in services.values()
    assert named_parts() == set(SERVICES)


async def test_two_replicas_over_one_database_work_side_by_side(home: Path, issuer: Issuer) -> None:
    async with open_parts(issuer.engine, sources_at(home), issuer.clock, entropy) as other:
        await issuer.generations.open(FABRIC, opening())
        await other.issuing.issue_device(FABRIC, ask(new_key()))
        assert other.issuing is not issuer.issuing
        assert [row["profile"] for row in await issuer.node_rows()] == ["device"]


async def test_a_revocation_wakes_the_publisher(issuer: Issuer) -> None:
    await issuer.service_certificates.revoke_all(FABRIC, "fabric", "superseded")
    assert issuer.parts.crl_publisher._woken.is_set()


async def test_the_sources_that_settings_name(home: Path) -> None:
    settings = load_settings(home / "breakwater" / "settings.toml", BreakwaterSettings)
    sources = sources_of(settings)
    assert (sources.directory, sources.pki_url, sources.crl) == (home / "breakwater", PKI_URL, settings.crl)
    assert sources.token is None
    with pytest.raises(KeyFileError):
        sources_of(msgspec.structs.replace(settings, passphrase_file="../gone"))


async def test_keys_of_a_token_are_closed_at_the_end(
    home: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []

    async def aclose(_: object) -> None:
        closed.append(True)

    monkeypatch.setattr("cloud.breakwater.keys.pkcs11.Pkcs11Keys.aclose", aclose)
    token = TokenSettings(module="/nowhere.so", label="cas", pin_file=str(home / "passphrase"))
    sources = msgspec.structs.replace(sources_at(home), token=token)
    with pytest.raises(ValueError, match="a fault"):
        async with open_parts(issuer.engine, sources, issuer.clock, entropy):
            raise ValueError("a fault")
    assert closed == [True]
