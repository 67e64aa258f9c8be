"""Use cases of the rights of an activation: an activation code, or a recovery case."""
