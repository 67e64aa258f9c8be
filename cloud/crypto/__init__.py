"""Keys at rest, who signed a certificate, and a writer of DER."""
