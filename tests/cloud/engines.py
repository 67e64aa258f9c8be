"""The database engines, for parametrising: `@pytest.mark.parametrize("engine", ENGINES)`."""

import pytest

ENGINES = ("sqlite", pytest.param("postgresql", marks=pytest.mark.slow))
"""The quick loop has the first."""
