"""Migration: events replace the feed of revoked certificates."""

from cloud.storage.schema import delete_rows, drop_column

STEPS = (drop_column("certificate", "feed"), delete_rows("counter", "name", "revocation"))
