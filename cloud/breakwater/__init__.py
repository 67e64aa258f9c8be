"""Service Breakwater, the issuer: its CAs, the certificates of nodes and services, and their revocation."""
