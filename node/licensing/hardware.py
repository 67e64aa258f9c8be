"""In-memory state: the last result of the TPM or of the fingerprint in the present run, as evidence for the verdict.

`HardwareCheck` is the only owner. It holds the result of the last check, or the fault of a contact that failed at the
TPM.

The administration of a TPM can make the node's key unusable: a password, a disabled hierarchy, a permission. The agent
then runs on its lease, if it is known that the TPM of the activation is in this machine (`node.hwbind.presence`).
Otherwise it does not run, because a copied disk with a hidden TPM looks the same.

A node without a TPM is known by its fingerprint. The signed lease has the enrolled one (`protocol.fingerprint`). Only a
complete reading says that this is another machine. After a reading that fails, the lease's dates decide; the dates of
this tier are short.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from node.conditions import Conditions
from node.disk.boot import BootRecord
from node.disk.thread import DiskSilent, on_disk
from node.exits import Exit
from node.hwbind import keys, presence
from node.hwbind.errors import TpmCleared, TpmError, TpmNotOurs, TpmTimeout
from node.hwbind.keys import WrappedKey
from node.hwbind.presence import EndorsementRecord
from node.hwbind.tpm import Esys, Tpm
from node.licensing.floor_memory import read_counter
from node.licensing.floors import Answer, Silent
from node.licensing.trusted_time import TrustedTime
from node.licensing.verdict import Hardware
from protocol.evidence import ClockInfo
from protocol.fingerprint import Judgement, judge
from protocol.signed.statements import Lease

if TYPE_CHECKING:
    from node.hwbind.fingerprint import Components

log = logging.getLogger("cascadia.hardware")

T = TypeVar("T")


FINGERPRINT_MISMATCH = "fingerprint_mismatch"
FINGERPRINT_UNREADABLE = "fingerprint_unreadable"
FINGERPRINT_UNKNOWN = "fingerprint_unknown"
"""Codes of the conditions of a node without a TPM."""
FINGERPRINT_NEXT = (
    "Undo the change of hardware. If this machine was repaired, run `cascadia recover`. If it is another machine, activate "
    "it with `cascadia activate FILE`; an operator must then approve it."
)
FINGERPRINT_UNREADABLE_NEXT = (
    "Check that udev runs, and that the unit of the agent has the lines `LoadCredential=dmi-...` of the package: only root "
    "can read /sys/class/dmi/id. The agent reads again at its next heartbeat."
)

RECORD_SECONDS_MAX = 2.0
"""How long a check waits for the record of the boot. The record is in memory; a frozen state disk can be before it."""


async def _briefly(work: Callable[[], T]) -> T | None:
    """The result of disk work; None if the disk does not answer."""
    try:
        return await on_disk(work, seconds_max=RECORD_SECONDS_MAX)
    except DiskSilent as error:
        log.warning("%s", error)
        return None


class HardwareCheck:
    """Whether this machine's TPM holds the node's key; without a TPM, whether this is the enrolled machine."""

    def __init__(self, tpm: Tpm, boot: BootRecord | None = None, conditions: Conditions | None = None) -> None:
        """Asks nothing yet.

        Args:
            tpm: the TPM.
            boot: the record that the key has answered in this boot; None keeps no record.
            conditions: where the faults of the TPM are reported.
        """
        self._tpm = tpm
        self._boot = boot
        self._conditions = conditions
        self._status: Hardware = "unchecked"
        self._proven = False
        self._fault: TpmError | None = None
        self._reported: set[str] = set()
        self._looked_for_ek = False
        self._counter_place: tuple[str, int | None] | None = None
        self._counter: Answer = Silent("the TPM was not asked for the floor counter")
        self._in_software = False
        self._judgement: Judgement | None = None
        self.time: TrustedTime | None = None
        """Takes the readings of the TPM's clock."""

    @property
    def boot(self) -> BootRecord | None:
        """The record of this boot."""
        return self._boot

    @property
    def judgement(self) -> Judgement | None:
        """The last comparison of the machine with its enrolled fingerprint; None for a node with a TPM."""
        return self._judgement

    @property
    def in_software(self) -> bool:
        """Whether the last check was that of a node without a TPM."""
        return self._in_software

    @property
    def unjudged(self) -> bool:
        """Whether this machine has no TPM, and was not compared with a lease yet."""
        return self._in_software and self._judgement is None

    @property
    def can_prove(self) -> bool:
        """Whether the node key can be used now. A software key can, also while the fingerprint cannot be read."""
        return self._status == "ours" or (self._in_software and self._status == "unavailable")

    def expect_counter(self, label: str, index: int | None) -> None:
        """Have each check read the floor counter of `label`: at `index`, or at any of its places with None."""
        self._counter_place = (label, index)

    @property
    def answered(self) -> bool:
        """Whether the last check had every answer: this is the machine, and its TPM has shown the floor counter.

        A TPM that is busy can use the key and then refuse the counter. Until it shows the counter, nothing is judged.
        """
        return self._status == "ours" and (self._counter_place is None or not isinstance(self._counter, Silent))

    @property
    def counter(self) -> Answer:
        """The last answer of the TPM about the floor counter."""
        return self._counter

    @property
    def status(self) -> Hardware:
        """The result of the last check, or of a later contact that failed at the TPM."""
        return self._status

    @property
    def proven(self) -> bool:
        """Whether the TPM of the activation is in this machine: by the key in this boot, or by the recorded EK."""
        return self._proven

    @property
    def fault(self) -> TpmError | None:
        """The last fault of the TPM; None after the TPM has passed a check or the cloud has answered."""
        return self._fault

    @property
    def unknown_fault(self) -> TpmError | None:
        """The fault of a TPM that is not known to be in this machine. A known TPM ends no agent."""
        return None if self._proven else self._fault

    async def check(self, node_key: WrappedKey, endorsement: EndorsementRecord | None = None) -> None:
        """Have the TPM use the node's key, and record the result.

        The answer "the key belongs to another chip" is recorded as a result. Any other fault is recorded as such if the
        TPM is known to be in this machine; the lease's dates then decide. Raises TpmError if it is not known.
        """
        boot_id, answered = await self._read_record(node_key)

        def ask(esys: Esys) -> tuple[bytes, ClockInfo, Answer]:
            clock = keys.read_clock(esys)
            signature = b""
            if boot_id and not answered:
                signature = presence.sign_boot(esys, node_key, boot_id)
            else:
                with keys.loaded(esys, node_key):
                    pass
            # An index can be missing because its hierarchy is disabled. The node key is under the same hierarchy.
            place = self._counter_place
            return signature, clock, read_counter(esys, *place) if place is not None else self._counter

        try:
            signature, clock, counter = await self._tpm.run(ask)
        except TpmNotOurs as error:
            await self._record_other(error, node_key, endorsement)
        except TpmError as error:
            # A TPM that does not answer at all would block the start for minutes if it were asked to make its EK.
            asked = not isinstance(error, TpmTimeout)
            if not (self._proven or answered or (asked and await self._shows(node_key, endorsement))):
                raise
            log.error("%s; the lease's dates decide, because the TPM of the activation is in this machine", error)
            self._proven = True
            self.report_fault(error)
            if asked:
                await self._read_clock()
        else:
            self.observe(clock)
            self._counter = counter
            self.report_ours()
            self.clear_fault()
            if signature and self._boot is not None:
                await _briefly(partial(self._boot.save, boot_id, signature))

    def observe(self, clock: ClockInfo) -> None:
        """Take a reading of the clock of the TPM that holds the node's key."""
        if self.time is not None:
            self.time.observe(clock)

    async def _read_clock(self) -> None:
        """Read the clock of a known TPM that cannot use the key. It needs no authorisation."""
        with suppress(TpmError):
            self.observe(await self._tpm.run(keys.read_clock))

    async def check_fingerprint(
        self, salt: bytes, lease: Lease | None, read: "Callable[[], Components] | None" = None
    ) -> None:
        """Compare this machine, which has no TPM, with the fingerprint in its lease, and record the result.

        `salt` is the tenant's. Without a lease there is nothing to compare, and the first lease of this run is judged
        after the contact that brought it (`unjudged`). A lease without an enrolled fingerprint opens no gate. `read` is
        `read_components` by default.
        """
        self._in_software = True
        # Imported here: a node with a TPM is not judged by its fingerprint.
        from node.hwbind.fingerprint import fingerprint
        from node.hwbind.reading import components_in_time

        components = await components_in_time(read)
        if lease is None:
            self._status, self._proven = "unavailable", False
            return
        if lease.fingerprint is None:
            self._status, self._proven = "unavailable", False
            self._report(
                FINGERPRINT_UNKNOWN, "the lease has no fingerprint of this machine", Exit.HARDWARE_MISMATCH.next
            )
            return
        judged = judge(lease.fingerprint, fingerprint(salt, components), components.unreadable)
        self._judgement = judged
        match judged.result:
            case "match":
                self.report_ours()
            case "mismatch":
                self._status, self._proven = "other", False
                kinds = ", ".join(judged.of("changed") + judged.of("missing"))
                self._report(FINGERPRINT_MISMATCH, f"{judged.reason}; not the same: {kinds}", FINGERPRINT_NEXT)
            case "inconclusive":
                self._status, self._proven = "unavailable", True
                kinds = ", ".join(f"{kind} ({components.absent[kind] or 'a part'})" for kind in judged.of("unreadable"))
                text = f"cannot read the serial numbers of this machine: {kinds}; the lease's dates decide"
                self._report(FINGERPRINT_UNREADABLE, text, FINGERPRINT_UNREADABLE_NEXT)

    def report_ours(self) -> None:
        """Record that the TPM has used the node's key, or that the machine matches its enrolled fingerprint."""
        self._status = "ours"
        self._proven = True
        self._looked_for_ek = False
        self._clear_conditions()

    def report_fault(self, error: TpmError) -> None:
        """Record that the TPM failed. TpmNotOurs is recorded as another chip, which closes the gate, not as a fault.

        After the answer that the key belongs to another chip, a fault does not open the gate again.
        """
        if isinstance(error, TpmNotOurs):
            self._status = "other"
            self._proven = False
            if self._looked_for_ek:
                return  # the condition says already which chip this is
        else:
            if self._status != "other":
                self._status = "unavailable"
            self._fault = error
        self._report(error.code, str(error), error.advice)

    def clear_fault(self) -> None:
        """Record that the TPM or the cloud has answered. An earlier fault then no longer ends the agent."""
        self._fault = None

    async def _read_record(self, node_key: WrappedKey) -> tuple[str, bool]:
        """As `_answered`. Without an answer of the disk there is no record."""
        return await _briefly(lambda: self._answered(node_key)) or ("", False)

    def _answered(self, node_key: WrappedKey) -> tuple[str, bool]:
        """The id of this boot, and whether the node key is recorded to have answered in it."""
        if self._boot is None:
            return "", False
        boot_id, stored = self._boot.boot_id(), self._boot.load()
        if not boot_id or stored is None or stored[0] != boot_id:
            return boot_id, False
        return boot_id, presence.signed_in_boot(node_key, boot_id, stored[1])

    async def _shows(self, node_key: WrappedKey, record: EndorsementRecord | None) -> bool:
        """Whether the TPM shows the recorded EK. Runs in a thread of its own, because it uses the TPM several times."""
        if record is None:
            return False
        return await trio.to_thread.run_sync(
            lambda: presence.shows_endorsement(self._tpm, node_key, record), abandon_on_cancel=True
        )

    async def _record_other(
        self, error: TpmNotOurs, node_key: WrappedKey, endorsement: EndorsementRecord | None
    ) -> None:
        """Record the answer that the key is not of this TPM. The text says whether it is the TPM of the activation.

        A repeated answer is recorded already. Looking for the EK again would keep a slow chip busy.
        """
        if self._looked_for_ek:
            return
        self._status = "other"
        if self._boot is not None:
            await _briefly(self._boot.clear)
        if await self._shows(node_key, endorsement):
            error = TpmCleared(error.detail)
        log.error("%s", error)
        self.report_fault(error)
        self._looked_for_ek = True

    def _report(self, code: str, text: str, next_step: str) -> None:
        """Report a condition in the place of the earlier one."""
        if self._conditions is not None:
            self._clear_conditions(but=code)
            if self._conditions.report(code, text, next_step):
                log.warning("%s", text)
            self._reported.add(code)

    def _clear_conditions(self, but: str = "") -> None:
        if self._conditions is not None:
            for code in self._reported - {but}:
                self._conditions.clear(code)
            self._reported &= {but}
