"""Pure functions: CSRs, certificate profiles, lint, and the encodings of CRLs and OCSP responses."""
