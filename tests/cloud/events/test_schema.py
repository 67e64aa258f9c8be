"""`cloud.events.schema`: the migrations of every service make the tables of events."""

import importlib
import pkgutil

import pytest

from cloud.events.schema import EVENTS


@pytest.mark.parametrize("service", ["breakwater", "fabric"])
def test_every_service_has_the_steps_once(service: str) -> None:
    package = importlib.import_module(f"cloud.{service}.migrations")
    modules = [
        importlib.import_module(f"{package.__name__}.{each.name}") for each in pkgutil.iter_modules(package.__path__)
    ]
    assert sum(EVENTS[0] in module.STEPS for module in modules) == 1
