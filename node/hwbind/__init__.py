"""The hardware binding: the TPM, the keys in the TPM, evidence about the keys, and the machine's fingerprint.

No other package of the node imports `tpm2_pytss`. This package decides nothing about licences.
"""
