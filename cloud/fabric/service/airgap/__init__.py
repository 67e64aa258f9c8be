"""Use cases: exchanges with nodes without a network. An operator carries the files."""
