"""Breakwater's tables and migrations, for Piccolo."""

from pathlib import Path

from piccolo.conf.apps import AppConfig

from cloud.breakwater import tables

APP_CONFIG = AppConfig(
    app_name="breakwater",
    migrations_folder_path=str(Path(__file__).parent / "piccolo_migrations"),
    table_classes=[
        tables.Authority,
        tables.CrossCertificate,
        tables.Counter,
        tables.Generation,
        tables.Closing,
        tables.IssuedCertificate,
        tables.CrlShard,
        tables.Crl,
        tables.Enrolment,
        tables.ServiceHost,
        tables.Audit,
    ],
)
