"""The database engines, for `@pytest.mark.parametrize("engine", ENGINES)`."""

import pytest

ENGINES = ("sqlite", pytest.param("postgresql", marks=pytest.mark.slow))
"""`make unit` runs the first one only."""
