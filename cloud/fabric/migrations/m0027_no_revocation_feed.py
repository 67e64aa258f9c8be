"""Migration: events replace the feed of revoked certificates."""

from cloud.storage.schema import drop_column

STEPS = (drop_column("revoked_service", "feed"),)
