"""`cloud.process.listeners`: each listener has the application of its purpose; old settings get a warning."""

import logging
from typing import cast

import pytest

from cloud.mtls.server import ServerTls
from cloud.process.listeners import listeners_of
from cloud.process.settings import ListenerSettings, ServiceSettings

APPLICATIONS = {"api": "the API", "pki": "the CRLs", "metrics": "the metrics"}
TLS = cast(ServerTls, "tls")
API = ListenerSettings(port=1)
PKI = ListenerSettings(port=2, tls=False, purpose="pki")
METRICS = ListenerSettings(port=3, tls=False, purpose="metrics")


def test_each_listener_gets_the_application_of_its_purpose(caplog: pytest.LogCaptureFixture) -> None:
    settings = ServiceSettings(trust_domain="cascade.test", listeners=(API, PKI, METRICS))
    found = listeners_of(settings, APPLICATIONS, TLS, ("/ocsp",))
    assert [(each.app, each.port, each.tls, each.posts) for each in found] == [
        ("the API", 1, TLS, ()),
        ("the CRLs", 2, None, ("/ocsp",)),
        ("the metrics", 3, None, ()),
    ]
    assert not caplog.records


def test_settings_without_a_listener_for_metrics_get_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    settings = ServiceSettings(trust_domain="cascade.test", listeners=(API, PKI), base="/srv/cascade/fabric")
    with caplog.at_level(logging.WARNING):
        assert len(listeners_of(settings, APPLICATIONS, TLS)) == 2
    (record,) = caplog.records
    assert 'purpose = "metrics"' in record.getMessage()
    assert record.__dict__["settings"] == "/srv/cascade/fabric"
