"""Migration: adds the fingerprints of denied machines, and deletes those of software nodes that were never confirmed."""

from piccolo.columns import Varchar

from cloud.storage import Statement
from cloud.storage.engine import ServiceEngine
from cloud.storage.schema import add_table

_FORGET = Statement(
    "DELETE FROM enrolled_component WHERE node IN "
    "(SELECT id FROM node WHERE current_generation = 0 AND seat_held = {held})"
)


async def forget_lapsed(engine: ServiceEngine) -> None:
    """Delete the enrolled components of nodes whose only activations have lapsed: they hold no seat."""
    await engine.fetch(_FORGET, held=False)


STEPS = (
    add_table(
        "denied_component",
        id=Varchar(length=192, primary_key=True),
        code=Varchar(length=64),
        value=Varchar(length=64, index=True),
        activation=Varchar(length=64, index=True),
    ),
    forget_lapsed,
)
