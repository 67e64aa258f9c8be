"""Air gap: requests and answers of a node without a network, on the node's side."""
