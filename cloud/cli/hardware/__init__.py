"""Command group: `cascade hardware`."""
