"""Air gap: the request and the answer of a node without a network, as files and as printable text."""
