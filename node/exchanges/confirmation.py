"""Use case: confirm a stored generation, from its first session to the switch of the identity on the disk.

An activation confirms the generation that it made. A running agent confirms a generation that an interrupted activation
left behind.
"""

import math
from functools import partial

from node.disk.identity import Identity
from node.disk.thread import on_disk
from node.errors import StateError
from node.exchanges.session import Held, SessionRefused, fresh_nonce, open_session
from node.hwbind.tpm import Tpm
from node.licensing.hardware import HardwareCheck
from node.licensing.licence import Licence
from node.state import State
from node.trust.current import CurrentTrust
from node.trust.published import TrustSet
from protocol.faults import fault_point
from protocol.messages.sessions import Ask
from protocol.signed.statements import Holder


async def confirm(
    state: State,
    identity: Identity,
    trust: CurrentTrust,
    tpm: Tpm,
    hardware: HardwareCheck,
    *,
    disk_seconds_max: float = math.inf,
) -> Licence:
    """Confirm a generation over a new session, and use its statement.

    `state.saver` then stores the statement, and makes the generation the current one in one rename. Returns the licence
    of the generation. `disk_seconds_max` is how long one piece of disk work is waited for. Raises CloudRefused if the
    cloud has closed the generation; its revocation waits in `state.saver`. Raises CloudUnreachable, ServerUnproven,
    CertificateRejected, StatementRejected, StateError, DiskSilent, TpmError.
    """
    trusted = trust.value
    load = partial(state.licence_of, identity, trust, hardware, confirmed=False)
    licence = await on_disk(load, seconds_max=disk_seconds_max)
    beside = await on_disk(partial(holder_in_force, state, identity, trusted), seconds_max=disk_seconds_max)
    # The first lease then names the counter.
    floor = await state.floors.establish(identity, beside)
    try:
        opened = await open_session(
            trusted, identity, tpm, state.time.window, "", observe=hardware.observe, held=Held(floor)
        )
    except SessionRefused as refused:
        if refused.answer.statement:
            # The stored revocation stops later attempts to confirm this generation.
            licence.apply(refused.answer, refused.answer_nonce)
        raise refused.refusal from refused
    if not opened.current.statement:
        # The generation is not confirmed yet. The counter gets a record before there is a lease that names it.
        await state.floors.begin(identity, beside)
    nonce = fresh_nonce()
    async with opened.credentials.connect(trusted, "fabric", state.time.window) as service:
        with fault_point("node.confirm.send"):
            answer = await service.confirm(Ask(nonce=nonce, trust_version=trusted.version))
    licence.apply(answer, nonce)
    licence.put_in_force()
    state.saver.put_then(identity.generation, partial(state.make_current, identity.generation))
    hardware.report_ours()
    return licence


def holder_in_force(state: State, identity: Identity, trust: TrustSet) -> Holder | None:
    """The holder in force in the state directory, None without one. Runs in the disk's thread.

    A generation in force that cannot be read may be of the same node, so the holder of `identity` is returned.
    """
    try:
        generation = state.generation_in_force(trust)
        return state.identities.load(generation).holder if generation else None
    except StateError:
        return identity.holder
