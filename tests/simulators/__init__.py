"""Simulators for hardware and for peers that misbehave."""
