"""The published trust: its update, the verified files on disk, and their values."""
