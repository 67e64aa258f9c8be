"""Builds the packages that users install: `cascadia` and `cascade-cloud`, as deb and as rpm. See docs/packages.md."""
