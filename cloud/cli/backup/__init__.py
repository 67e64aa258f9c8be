"""Commands of `cascade backup`, and `cascade restore`."""
