"""The node's licence: verified statements on disk, the pure verdict over them, and how they are refreshed."""
