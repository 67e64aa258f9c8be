"""Use cases of issuance: from a request to a stored certificate; EST; one-time secrets."""
