"""The published trust: update, verified files, values."""
