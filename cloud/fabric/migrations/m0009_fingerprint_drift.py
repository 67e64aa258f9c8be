"""Migration: adds to generations how far the machine has drifted from its fingerprint, and the machines seen."""

from piccolo.columns import Text

from cloud.storage.schema import add_column

STEPS = (
    add_column("generation", drift=Text(default="null")),
    add_column("generation", machines=Text(default="[]")),
)
