"""Whether Fabric can serve."""

from cloud.fabric import store


async def ready() -> None:
    """The database answers. Breakwater is not asked: refresh and operators work without it. Raises StorageError."""
    await store.installation.read_all()
