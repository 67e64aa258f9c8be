"""The root key's ceremony: what is signed, the file that describes it, the run."""
