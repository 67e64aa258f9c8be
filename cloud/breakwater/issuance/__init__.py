"""From a request to a stored certificate: issuing, EST, one-time secrets."""
