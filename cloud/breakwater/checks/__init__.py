"""Checks of what was issued: the checker of `cascade pki check`, and pkilint."""
