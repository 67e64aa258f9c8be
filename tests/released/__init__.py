"""Fixtures: a machine and its cloud as released versions have left them, and the code that makes and unpacks them."""
