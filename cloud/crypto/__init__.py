"""Keys at rest, and a writer of DER."""
