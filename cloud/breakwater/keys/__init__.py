"""The port for CA keys, and its file and PKCS#11 adapters."""
