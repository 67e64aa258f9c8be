"""Migration: adds the id of the request to audit entries."""

from piccolo.columns import Varchar

from cloud.storage.schema import add_column

STEPS = (add_column("audit", request=Varchar(length=36, default="")),)
