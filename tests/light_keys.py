"""Key files that open in no time, for processes of tests: scrypt would take a third of a second for each, at each start.

What `write_key` does by itself is in tests/cloud/crypto/test_keyfile.py and, with the real commands, in
tests/system/test_secrets_stay.py.
"""

from cloud.crypto import keyfile

SHIPPED = keyfile.COST
LIGHT = keyfile.ScryptCost(n=2**4, r=8, p=1)


def use_light_keys() -> None:
    """Files that this process writes from now on open quickly, in any process."""
    keyfile.COST = LIGHT
