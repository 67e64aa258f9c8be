"""Adapter: keeps settings of the environment from OpenSSL.

`OPENSSL_CONF` and its like name another configuration, provider or engine. Such a configuration could weaken TLS or
load code. The system's own configuration applies.
"""

import os

VARIABLES = ("OPENSSL_CONF", "OPENSSL_CONF_INCLUDE", "OPENSSL_MODULES", "OPENSSL_ENGINES")


def forget_settings() -> None:
    """Remove the variables from the environment of this process.

    Call this function before the first import of a module that uses OpenSSL: OpenSSL reads the variables once.
    """
    for name in VARIABLES:
        os.environ.pop(name, None)
