"""In-memory state: the last result of the TPM in the present run, as evidence for the verdict.

`HardwareCheck` is the only owner. It holds the result of the last check, or the fault of a contact that failed at the
TPM.
"""

import logging
from collections.abc import Callable

from node.hwbind import keys
from node.hwbind.errors import TpmError, TpmFailed, TpmIntegrity, TpmLockout, TpmNotOurs
from node.hwbind.keys import WrappedKey
from node.hwbind.tpm import Esys, Tpm
from node.licensing.verdict import Hardware

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
        """The result of the last check, or of a later contact that failed at the TPM."""
        return self._status

    @property
    def proven(self) -> bool:
        """Whether the TPM has used the node's key at any time in this run."""
        return self._proven

    @property
    def fault(self) -> TpmError | None:
        """The last fault of the TPM; None after the TPM has passed a check or the cloud has answered."""
        return self._fault

    async def check(self, node_key: WrappedKey, lease_serves: Callable[[], bool]) -> None:
        """Have the TPM load the node's key, and record the result.

        The answer "the key belongs to another chip" is recorded as a result. A TPM that answers with an error is
        tolerated while `lease_serves()` is true, which means that the lease needs no refresh yet. `lease_serves` is
        called after the TPM has failed, because a slow TPM takes seconds. Raises TpmError for every other fault.
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
            if not lease_serves():
                raise
            log.error("%s; the lease counts until it is due for refresh", error)
            self._status = "unavailable"
        else:
            self.report_ours()
            self.clear_fault()

    def report_ours(self) -> None:
        """Record that the TPM has used the node's key."""
        self._status = "ours"
        self._proven = True

    def report_fault(self, error: TpmError) -> None:
        """Record that the TPM failed. TpmNotOurs is recorded as another chip, which closes the gate, not as a fault."""
        if isinstance(error, TpmNotOurs):
            self._status = "other"
        else:
            self._status = "unavailable"
            self._fault = error

    def clear_fault(self) -> None:
        """Record that the TPM or the cloud has answered. An earlier fault then no longer ends the agent."""
        self._fault = None
