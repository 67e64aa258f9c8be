"""Settings: the NATS server of a service. Without the table `nats` a service uses none."""

from typing import Annotated

import msgspec

TLS_SCHEME = "tls://"
KEEP_DAYS_MIN = 7
KEEP_DAYS_MAX = 365
STREAM_BYTES_MIN = 1024 * 1024
STREAM_BYTES_DEFAULT = 1024**3
"""A million events of a kilobyte."""


class NatsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table `nats` of a service's settings.

    `url` is `tls://HOST:PORT`. The server's certificate must be from a CA in `ca_file`, or from one of the system's CAs
    without it. `credentials_file` is the file of `cascade config nats`, or `credential:NAME`. With `rings`,
    doorbells go over NATS as well as over the database. With `copies`, the stream gets a copy of the events of tenants.
    The stream has an event for `keep_days`, and at most `stream_bytes` of events. In a cluster of servers,
    `stream_replicas` of them have it.
    """

    url: Annotated[str, msgspec.Meta(pattern=r"^(tls|nats)://[^/\s@]{1,253}:[0-9]{1,5}$")]
    ca_file: str = ""
    credentials_file: str = "nats.creds"
    rings: bool = True
    copies: bool = True
    keep_days: Annotated[int, msgspec.Meta(ge=KEEP_DAYS_MIN, le=KEEP_DAYS_MAX)] = KEEP_DAYS_MIN
    stream_bytes: Annotated[int, msgspec.Meta(ge=STREAM_BYTES_MIN)] = STREAM_BYTES_DEFAULT
    stream_replicas: Annotated[int, msgspec.Meta(ge=1, le=5)] = 1
