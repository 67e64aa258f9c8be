"""Migrations of Fabric, one module each. They run in the order of their names. A released module is never changed."""
