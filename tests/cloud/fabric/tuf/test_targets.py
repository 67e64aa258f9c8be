"""`cloud.fabric.tuf.targets`: content that no node could use is refused."""

import msgspec
import pytest

from cloud.fabric.tuf.targets import TargetsError, build_targets
from protocol.ids import IdError
from protocol.signed.trust import TARGETS
from tests.simulators.repository import certificate, p256, verification_key

KEY = verification_key(p256(), "lease")


OTHER = verification_key(p256(), "lease")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"keys": []}, "at least one"),
        ({"keys": [KEY, KEY]}, "each only once"),
        ({"keys": [msgspec.structs.replace(KEY, kid=OTHER.kid)]}, "does not match the key"),
        ({"keys": [msgspec.structs.replace(KEY, public_key_der=b"no key")]}, "cannot be read"),
        ({"keys": [msgspec.structs.replace(KEY, typs=())]}, "no document type"),
        ({"keys": [msgspec.structs.replace(KEY, not_after=KEY.not_before)]}, "no document type"),
        ({"roots": []}, "at least one root"),
        ({"node_issuers": [b"no certificate"]}, "cannot be read"),
        ({"fabric_url": "http://fabric:8440"}, "https://host:port"),
        ({"fabric_url": "https://fabric"}, "https://host:port"),
        ({"fabric_url": "https://fabric:8440/"}, "https://host:port"),
        ({"fabric_url": "https://user@fabric:8440"}, "https://host:port"),
        ({"breakwater_url": "https://fabric:port"}, "not a number"),
        ({"repository_url": "https://fabric:8442"}, "must begin with http://"),
        ({"repository_url": "http://["}, "http://host:port"),
    ],
)
def test_content_that_no_node_could_use_is_not_published(change: dict[str, object], error: str) -> None:
    good = {
        "keys": [KEY, OTHER],
        "trust_domain": "cascade.internal",
        "roots": [certificate("root")],
        "node_issuers": [certificate("nodes")],
        "service_issuers": [certificate("services")],
        "fabric_url": "https://fabric:8440",
        "breakwater_url": "https://[::1]:8441",
    }
    assert set(build_targets(**good)) == set(TARGETS)  # type: ignore[arg-type]
    with pytest.raises(TargetsError, match=error):
        build_targets(**(good | change))  # type: ignore[arg-type]


def test_a_malformed_trust_domain_is_not_published() -> None:
    with pytest.raises(IdError):
        build_targets(
            keys=[KEY],
            trust_domain="Not A Domain",
            roots=[certificate("root")],
            node_issuers=[certificate("nodes")],
            service_issuers=[certificate("services")],
            fabric_url="https://fabric:8440",
            breakwater_url="https://fabric:8441",
        )
