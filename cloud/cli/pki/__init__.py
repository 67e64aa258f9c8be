"""Command group: `cascade pki`, whose commands run on Breakwater's host."""
