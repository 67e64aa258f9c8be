"""Pure: TPM evidence, and trust in endorsement keys."""
