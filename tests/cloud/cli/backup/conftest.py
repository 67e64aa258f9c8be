"""Fixtures: an installation of `cascade init`."""

from tests.cloud.backup.conftest import home, installed, pin

__all__ = ["home", "installed", "pin"]
