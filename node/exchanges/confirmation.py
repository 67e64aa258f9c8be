"""Use case: confirm a stored generation, from its first session to the switch of the identity on the disk.

Activation confirms the generation that it has made. A running agent confirms one that an interrupted activation left.
"""

from node.clock import Clock
from node.disk.identity import Identity
from node.exchanges.session import SessionRefused, fresh_nonce, open_session
from node.hwbind.tpm import Tpm
from node.licensing.hardware import HardwareCheck
from node.licensing.licence import Licence
from node.state import State
from node.trust.current import CurrentTrust
from protocol.faults import fault_point
from protocol.messages.sessions import Ask


async def confirm(
    state: State, identity: Identity, trust: CurrentTrust, tpm: Tpm, hardware: HardwareCheck, clock: Clock
) -> Licence:
    """Confirm over a new session, store the statement, switch to the generation by one rename.

    Returns its licence. Raises CloudRefused when the cloud has ended the generation (its revocation is then stored),
    CloudUnreachable, ServerUnproven, CertificateRejected, StatementRejected, StateError, TpmError.
    """
    trusted = trust.value
    licence = state.licence_of(identity, trust, hardware, clock, confirmed=False)
    try:
        opened = await open_session(trusted, identity, tpm, clock, "")
    except SessionRefused as refused:
        if refused.answer.statement:
            # Stored, so that nobody asks for this generation again.
            licence.apply(refused.answer, refused.answer_nonce)
        raise refused.refusal from refused
    nonce = fresh_nonce()
    async with opened.credentials.connect(trusted, "fabric") as service:
        with fault_point("node.confirm.send"):
            answer = await service.confirm(Ask(nonce=nonce, trust_version=trusted.version))
    licence.apply(answer, nonce)
    state.identities.switch_to(identity.generation)
    licence.put_in_force()
    hardware.report_ours()
    return licence
