from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.columns.column_types import Timestamptz
from piccolo.columns.indexes import IndexMethod

ID = "2026-11-22T13:36:27:804964"
VERSION = "1.38.0"
DESCRIPTION = "close_one"


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="breakwater", description=DESCRIPTION)

    manager.add_column(
        table_class_name="Generation",
        tablename="generation",
        column_name="closed_at",
        db_column_name="closed_at",
        column_class_name="Timestamptz",
        column_class=Timestamptz,
        params={
            "default": None,
            "null": True,
            "primary_key": False,
            "unique": False,
            "index": False,
            "index_method": IndexMethod.btree,
            "choices": None,
            "db_column_name": None,
            "secret": False,
        },
        schema=None,
    )

    return manager
