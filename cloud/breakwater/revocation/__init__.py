"""CRL shards and their publisher, the OCSP responder, the feed of revoked services."""
