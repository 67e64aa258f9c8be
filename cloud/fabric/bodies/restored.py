"""Messages: what operators see and do after a restore of the cloud, and after the loss of its database.

The rules are those of `cloud.fabric.schemas`.
"""

from typing import Literal

Hold = Literal["", "conflicting", "unconfirmed"]
"""Why a node gets no later dates. `conflicting`: it has presented a statement of ours that is later than the restored
database. `unconfirmed`: its row was made from its certificate and statement. Empty: it gets leases as usual."""
