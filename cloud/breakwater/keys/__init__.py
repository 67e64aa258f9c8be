"""Port for CA signing keys, and its adapters: encrypted files and PKCS#11 tokens."""
