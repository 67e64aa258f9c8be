"""Settings of Fabric: its own URL, where Breakwater is, and where keys lie."""

from typing import Annotated, ClassVar

import msgspec

from cloud.process.settings import ServiceSettings
from protocol.limits import CONFIRM_WITHIN


class FabricSettings(ServiceSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`settings.toml` of Fabric, written by `cascade init`.

    `public_url` is the one that nodes know from the trusted targets (`https://host:port`): session proofs must name
    it, whatever a request's own headers say.
    """

    PURPOSES: ClassVar[tuple[str, ...]] = ("api", "tuf")
    public_url: str
    breakwater_url: str
    keys: str = "keys"
    tls: str = "tls"
    confirm_within_seconds: Annotated[int, msgspec.Meta(ge=1)] = int(CONFIRM_WITHIN.total_seconds())
