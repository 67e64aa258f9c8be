"""Migrations of the throw-away service."""
