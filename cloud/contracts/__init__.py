"""What services say to each other over mTLS, one module a service."""
