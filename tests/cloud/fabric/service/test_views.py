"""`cloud.fabric.service.views`: pages, cursors, and the state of a code."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID

from cloud.fabric.errors import Invalid
from cloud.fabric.service import views
from cloud.fabric.store.rows import EkRootRow
from protocol.ids import TenantId
from tests.cloud.fabric.store.support import HOUR, NOW, code, generation, node


def test_a_page_has_a_cursor_only_if_there_is_more() -> None:
    assert views.page(["a", "b"], ["1", "2"], 2).next_cursor == ""
    first = views.page(["a", "b", "c"], ["1", "2", "3"], 2)
    assert first.items == ("a", "b")
    assert views.read_cursor(first.next_cursor) == "2"


@pytest.mark.parametrize("cursor", ["!", "w6Q", "A" * 200])
def test_a_cursor_that_is_not_ours_is_refused(cursor: str) -> None:
    with pytest.raises(Invalid):
        views.read_cursor(cursor)


@pytest.mark.parametrize("limit", [0, -1, views.PAGE_ITEMS_MAX + 1])
def test_limits_are_bounded(limit: int) -> None:
    with pytest.raises(Invalid):
        views.read_limit(limit)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "open"),
        ({"seats_taken": 2}, "spent"),
        ({"expires_at": NOW, "seats_taken": 2}, "expired"),
        ({"revoked_at": NOW, "expires_at": NOW}, "revoked"),
    ],
)
def test_the_state_of_a_code_is_the_strongest_that_holds(changes: dict[str, object], state: str) -> None:
    assert views.code(code(**changes), NOW).state == state
    assert "5ec" not in str(views.code(code(**changes), NOW))


def test_a_node_is_closing_until_the_issuer_knows() -> None:
    assert views.node(node(closed_up_to=1)).closing
    assert not views.node(node(closed_up_to=1, closed_at_issuer=1)).closing
    assert views.generation(generation(seen_at=NOW + HOUR)).seen_at == NOW + timedelta(hours=1)


def test_a_root_that_an_earlier_release_stored_is_shown() -> None:
    """That release took a CA certificate with any key; this one reads RSA keys and keys on curves of NIST."""
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Old\x1bmaker")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + HOUR)
    certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, None)
    der = certificate.public_bytes(serialization.Encoding.DER)
    shown = views.ek_root(EkRootRow("id", TenantId("ten"), "5ec", der, "rsa2048", NOW))
    assert (shown.subject, shown.not_after) == ("CN=Old?maker", certificate.not_valid_after_utc)
