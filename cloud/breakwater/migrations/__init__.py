"""Migrations of Breakwater, one module each, run in the order of their names. A module is not changed once it is released."""
