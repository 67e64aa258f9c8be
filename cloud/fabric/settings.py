"""Settings: the settings file of Fabric as a struct. Fabric's own URL, Breakwater's URL, the folders of the keys."""

from typing import Annotated, ClassVar

import msgspec

from cloud.process.settings import ServiceSettings
from protocol.limits import APPROVE_WITHIN, CONFIRM_WITHIN


class FabricSettings(ServiceSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`settings.toml` of Fabric, written by `cascade init`.

    `public_url` (`https://host:port`) is the URL in the published targets, from which nodes learn it. A session proof
    must name this URL. The Host header of a request plays no part in that check.
    """

    PURPOSES: ClassVar[tuple[str, ...]] = ("api", "tuf", "metrics")
    public_url: str
    breakwater_url: str
    keys: str = "keys"
    tls: str = "tls"
    confirm_within_seconds: Annotated[int, msgspec.Meta(ge=1)] = int(CONFIRM_WITHIN.total_seconds())
    approve_within_seconds: Annotated[int, msgspec.Meta(ge=1)] = int(APPROVE_WITHIN.total_seconds())
