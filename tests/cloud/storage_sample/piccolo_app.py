"""The Piccolo app of the throw-away service."""

from pathlib import Path

from piccolo.conf.apps import AppConfig

from tests.cloud.storage_sample.tables import Part, Widget

APP_CONFIG = AppConfig(
    app_name="storage_sample",
    migrations_folder_path=str(Path(__file__).parent / "piccolo_migrations"),
    table_classes=[Widget, Part],
)
