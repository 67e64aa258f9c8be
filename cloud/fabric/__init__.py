"""Fabric, the control plane: tenants, activation, node licensing, statements, operators and audit."""
