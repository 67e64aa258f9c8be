"""Wiring of Fabric: the ports, the groups of parts, and the parts of nodes and activations."""
