"""Errors of the build of packages.

PackageError
"""


class PackageError(Exception):
    """A package cannot be built. The text is "cannot DO THING: CAUSE", and the next step as a sentence."""
