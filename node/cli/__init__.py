"""The `cascadia` command line."""
