"""Pure functions: check TPM evidence, and the trust in endorsement keys."""
