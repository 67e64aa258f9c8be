"""Migrations of Breakwater. They run in the order of their names. A released module is never changed."""
