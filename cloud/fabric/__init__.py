"""Service: Fabric, the control plane. Tenants, activation, nodes, statements, published trust, operators and audit."""
