"""Tables of the throw-away service."""

from piccolo.columns import BigInt, Boolean, Bytea, Text, Timestamptz, Varchar
from piccolo.table import Table

from cloud.storage import UNBOUND


class Widget(Table, db=UNBOUND, tablename="widget"):
    """One of each column type that the services use."""

    id = Varchar(length=64, primary_key=True)
    label = Text()
    is_open = Boolean(default=True)
    amount_minor = BigInt(default=0)
    blob = Bytea(default=b"")
    made_at = Timestamptz()


class Part(Table, db=UNBOUND, tablename="part"):
    """A row that belongs to a widget."""

    id = Varchar(length=64, primary_key=True)
    widget = Varchar(length=64)
