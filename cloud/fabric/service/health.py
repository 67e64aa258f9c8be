"""Whether Fabric can serve."""

from cloud.fabric.service.context import Core


async def ready(core: Core) -> None:
    """The database answers. Breakwater is not asked: refresh and operators work without it. Raises StorageError."""
    await core.stores.installation.read_all()
