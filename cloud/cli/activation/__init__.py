"""Command group: `cascade activation`."""
