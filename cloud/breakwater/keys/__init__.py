"""The port of the CA keys, and its adapters: file and PKCS#11."""
