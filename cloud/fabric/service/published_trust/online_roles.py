"""Use case: keeps the online roles of the repository fresh, and warns of offline roles that expire soon."""

import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tuf.api.metadata import Root, Targets

from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.store.repository import RepositoryStore
from cloud.fabric.tuf.checking import read_metadata
from cloud.fabric.tuf.repository import OnlineSigners
from cloud.fabric.tuf.serving import keep_fresh
from cloud.storage.errors import IntegrityError

log = logging.getLogger("cascade.fabric.trust")

EXPIRY_WARNING = timedelta(days=60)
"""How long before its end a root or the targets are warned of: to find the holders of an offline key takes weeks."""


@dataclass(frozen=True, kw_only=True)
class OnlineRoles:
    """Signs the online roles again before they expire."""

    now: Now
    transaction: Transaction
    repository: RepositoryStore
    online: OnlineSigners = field(repr=False)

    async def keep_fresh(self) -> None:
        """Sign what is due; another replica may be first. Raises LookupError when the repository is empty."""
        await warn_of_expiry(self.repository, self.now())
        try:
            # One transaction: between its reading and its writing nobody may publish, or older targets were named again.
            async with self.transaction():
                await keep_fresh(self.repository, self.now(), self.online)
        except IntegrityError:
            return


async def warn_of_expiry(files: RepositoryStore, now: datetime) -> tuple[str, ...]:
    """Log which of the offline roles expire within `EXPIRY_WARNING`; returns the roles."""
    found = []
    root, targets = await files.latest("root"), await files.latest("targets")
    ends = {} if root is None else {"root": read_metadata(root.data, Root).signed.expires}
    if targets is not None:
        ends["targets"] = read_metadata(targets.data, Targets).signed.expires
    for role, expires_at in ends.items():
        if expires_at - now < EXPIRY_WARNING:
            found.append(role)
            log.warning(
                "published trust ends soon: sign it again with `cascade trust sign`",
                extra={"role": role, "expires_at": expires_at, "days_left": (expires_at - now).days},
            )
    return tuple(found)
