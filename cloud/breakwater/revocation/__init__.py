"""Use cases and background tasks of revocation: CRL shards, CRL publisher, OCSP responder."""
