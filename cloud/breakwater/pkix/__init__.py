"""Pure: CSRs, profiles, lint, and the encodings of CRLs and OCSP."""
