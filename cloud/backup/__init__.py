"""Backups of an installation, and their restore. Imported by the command line only."""
