"""The command line `cascadia`."""
