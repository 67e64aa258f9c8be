"""Use case: sign the online roles of the repository before they expire, and warn of offline roles that expire soon."""

import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tuf.api.metadata import Root, Targets

from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.store.keys import TRUST
from cloud.fabric.store.repository import RepositoryStore
from cloud.fabric.tuf.checking import read_metadata
from cloud.fabric.tuf.repository import OnlineSigners
from cloud.fabric.tuf.serving import keep_fresh
from cloud.storage.errors import IntegrityError

log = logging.getLogger("cascade.fabric.trust")

EXPIRY_WARNING = timedelta(days=60)
"""How long before its expiry a warning about the root or the targets begins. To gather the holders of an offline key
takes weeks."""


@dataclass(frozen=True, kw_only=True)
class OnlineRoles:
    """Signs the online roles again before they expire."""

    now: Now
    transaction: Transaction
    repository: RepositoryStore
    online: OnlineSigners = field(repr=False)

    async def keep_fresh(self) -> None:
        """Warn of offline roles that expire soon. Sign the online roles that are due, unless another replica was first.

        Raises LookupError if the repository is empty.
        """
        await warn_of_expiry(self.repository, self.now())
        try:
            # One transaction, so that no publication comes between the read and the write. Otherwise the new snapshot
            # would name older targets.
            async with self.transaction(TRUST):
                await keep_fresh(self.repository, self.now(), self.online)
        except IntegrityError:
            return


async def warn_of_expiry(files: RepositoryStore, now: datetime) -> tuple[str, ...]:
    """Log a warning for each offline role that expires within `EXPIRY_WARNING`. Returns these roles."""
    found = []
    root, targets = await files.latest("root"), await files.latest("targets")
    ends = {} if root is None else {"root": read_metadata(root.data, Root).signed.expires}
    if targets is not None:
        ends["targets"] = read_metadata(targets.data, Targets).signed.expires
    for role, expires_at in ends.items():
        if expires_at - now < EXPIRY_WARNING:
            found.append(role)
            log.warning(
                "the published trust expires soon. Sign it again with `cascade trust sign`",
                extra={"role": role, "expires_at": expires_at, "days_left": (expires_at - now).days},
            )
    return tuple(found)
