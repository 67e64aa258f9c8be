"""Use case of `cascade pki check`: check every issued certificate and CRL, and the pkilint adapter for it."""
