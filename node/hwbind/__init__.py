"""The hardware binding: the TPM port, the keys in it, the evidence about them, and the machine's fingerprint.

The only place in the node that imports `tpm2_pytss`. Decides nothing about licences.
"""
