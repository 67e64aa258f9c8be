"""Use cases of the root key's ceremonies: the file that describes one, its run, and the signatures."""
