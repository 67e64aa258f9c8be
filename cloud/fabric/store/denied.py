"""Store: the fingerprints of denied machines without a TPM, by the values of disks and boards."""

from cloud.fabric.tables import Activation, DeniedComponent
from cloud.storage import ServiceEngine, compiled, insert_into, param
from protocol.ids import ActivationId, CodeId

ACTIVATIONS_MAX = 32
"""Most activations that one value finds. More denied machines with one serial number do not identify one machine."""

_ADD = compiled(insert_into(DeniedComponent).on_conflict(target=DeniedComponent.id, action="DO NOTHING"))
_ACTIVATIONS = compiled(
    DeniedComponent.select(DeniedComponent.activation)
    .where(DeniedComponent.code == param("code"), DeniedComponent.value == param("value"))
    .order_by(DeniedComponent.activation, ascending=False)
    .limit(ACTIVATIONS_MAX)
)
PURGED_AT_ONCE = 50
"""Activations whose rows one statement deletes. With SQLite it blocks the event loop for a few milliseconds."""
_IN_FORCE = Activation.select(Activation.id).where(Activation.state == "denied")
_ENDED = (
    DeniedComponent.select(DeniedComponent.activation)
    .distinct()
    .where(DeniedComponent.activation.not_in(_IN_FORCE))
    .limit(PURGED_AT_ONCE)
)
_PURGE = compiled(
    DeniedComponent.delete().where(DeniedComponent.activation.is_in(_ENDED)).returning(DeniedComponent.id)
)


class DeniedStore:
    """Values of disks and boards of denied machines. A denial holds for one code."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def activations_with(self, code: CodeId, value: str) -> list[ActivationId]:
        """The denied activations whose machine has reported this value (HMAC in hex). The newest first.

        At most ACTIVATIONS_MAX.
        """
        return [
            ActivationId(row["activation"]) for row in await self._engine.fetch(_ACTIVATIONS, code=code, value=value)
        ]

    async def add(self, code: CodeId, activation: ActivationId, values: tuple[str, ...]) -> None:
        """Store the values of a denied activation."""
        for value in values:
            await self._engine.fetch(_ADD, id=f"{value}.{activation}", code=code, value=value, activation=activation)

    async def purge(self) -> None:
        """Delete the values of activations that are not denied any more."""
        while await self._engine.fetch(_PURGE):
            pass
