"""Migration: adds the public key of a recovery code, by which a request in a file proves the code."""

from piccolo.columns import Varchar

from cloud.storage.schema import add_column

STEPS = (add_column("recovery_code", proof_key=Varchar(length=64, default="", index=True)),)
