"""Cheap scrypt parameters for key files of tests. The shipped parameters take a third of a second a file at each start.

Two tests use the shipped parameters: tests/cloud/crypto/test_keyfile.py, and tests/system/test_secrets_stay.py with the
real commands.
"""

from cloud.crypto import keyfile

SHIPPED = keyfile.COST
LIGHT = keyfile.ScryptCost(n=2**4, r=8, p=1)


def use_light_keys() -> None:
    """Write every later key file of this process with the cheap parameters. Any process opens such a file quickly."""
    keyfile.COST = LIGHT
