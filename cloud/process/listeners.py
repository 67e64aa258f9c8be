"""Wiring: the listeners of a service, from its settings and its applications."""

import logging
from collections.abc import Mapping
from typing import Any

from cloud.mtls.server import ServerTls
from cloud.process.serve import Listener
from cloud.process.settings import ServiceSettings

log = logging.getLogger("cascade.server")


def listeners_of(
    settings: ServiceSettings, applications: Mapping[str, Any], tls: ServerTls, posts: tuple[str, ...] = ()
) -> tuple[Listener, ...]:
    """Return the listeners of the settings, each with the application of its purpose.

    `posts` are the paths to which a plaintext listener with the purpose "pki" answers POST. Settings of an older release
    have no listener with the purpose "metrics". Then `/metrics` is not served, and a log entry says how to add it.
    """
    if not any(where.purpose == "metrics" for where in settings.listeners):
        log.warning(
            "/metrics is not served: no listener has the purpose metrics; to serve it, add to the settings: "
            '[[listeners]] host = "127.0.0.1", port = PORT, tls = false, purpose = "metrics"',
            extra={"settings": settings.base},
        )
    return tuple(
        Listener(
            applications[where.purpose],
            where.host,
            where.port,
            tls if where.tls else None,
            posts if where.purpose == "pki" else (),
        )
        for where in settings.listeners
    )
