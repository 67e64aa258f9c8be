"""Use cases of activations: start, proof, approval by a person, and admission as a node."""
