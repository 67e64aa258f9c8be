"""Breakwater's tables and migrations, for Piccolo."""

from pathlib import Path

from piccolo.conf.apps import AppConfig

from cloud.breakwater.tables import Audit, Closing, Generation, IssuedCertificate, ServiceHost

APP_CONFIG = AppConfig(
    app_name="breakwater",
    migrations_folder_path=str(Path(__file__).parent / "piccolo_migrations"),
    table_classes=[Generation, Closing, IssuedCertificate, ServiceHost, Audit],
)
