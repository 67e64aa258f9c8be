"""The Piccolo app of Fabric: which tables there are and where their migrations stand."""

from pathlib import Path

from piccolo.conf.apps import AppConfig

from cloud.fabric import tables

APP_CONFIG = AppConfig(
    app_name="fabric",
    migrations_folder_path=str(Path(__file__).parent / "piccolo_migrations"),
    table_classes=[
        tables.Installation,
        tables.Tenant,
        tables.EkRoot,
        tables.EkAllowed,
        tables.Code,
        tables.Activation,
        tables.Node,
        tables.Generation,
        tables.Renewal,
        tables.RevokedService,
        tables.OperatorToken,
        tables.Audit,
        tables.TufMetadata,
        tables.TufTarget,
    ],
)
