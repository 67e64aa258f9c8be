"""In-memory state: the last answer of this machine's TPM in the present run, as evidence for the verdict.

`HardwareCheck` is its only owner. An exchange that has used the TPM reports the outcome; everything else reads it.
"""

import logging
from datetime import datetime

from node.hwbind import keys
from node.hwbind.errors import TpmError, TpmFailed, TpmIntegrity, TpmLockout, TpmNotOurs
from node.hwbind.keys import WrappedKey
from node.hwbind.tpm import Esys, Tpm
from node.licensing.verdict import Hardware
from protocol.signed.statements import Lease

log = logging.getLogger("cascadia.hardware")


class HardwareCheck:
    """Whether this machine's TPM holds the node's key."""

    def __init__(self, tpm: Tpm) -> None:
        self._tpm = tpm
        self._status: Hardware = "unchecked"
        self._proven = False
        self._fault: TpmError | None = None

    @property
    def status(self) -> Hardware:
        """The TPM's last answer."""
        return self._status

    @property
    def proven(self) -> bool:
        """Whether the TPM has answered as this node's at any time in this run."""
        return self._proven

    @property
    def fault(self) -> TpmError | None:
        """The fault that the TPM reported since it, or the cloud, last answered."""
        return self._fault

    async def check(self, node_key: WrappedKey, lease: Lease | None, now: datetime) -> None:
        """Have the TPM load the node's key, and record its answer.

        Another chip's key is an answer. A TPM that answers with an error is tolerated until the lease needs a refresh
        (design, section 6, exit 87). Raises TpmError for every other fault.
        """

        def load(esys: Esys) -> None:
            with keys.loaded(esys, node_key):
                pass

        try:
            await self._tpm.run(load)
        except TpmNotOurs as error:
            log.error("%s", error)
            self._status = "other"
        except (TpmFailed, TpmLockout, TpmIntegrity) as error:
            if lease is None or now >= lease.refresh_after:
                raise
            log.error("%s; running on the lease until it needs a refresh", error)
            self._status = "unavailable"
        else:
            self.report_ours()
            self.clear_fault()

    def report_ours(self) -> None:
        """The TPM has used the node's key."""
        self._status = "ours"
        self._proven = True

    def report_fault(self, error: TpmError) -> None:
        """The TPM failed. Another chip's key is no fault of the chip: it closes the gate."""
        if isinstance(error, TpmNotOurs):
            self._status = "other"
        else:
            self._status = "unavailable"
            self._fault = error

    def clear_fault(self) -> None:
        """The TPM has answered, or the cloud has without it: an earlier fault no longer ends the agent."""
        self._fault = None
