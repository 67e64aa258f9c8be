"""Keys at rest, checks of a certificate's issuer, and a writer of DER."""
