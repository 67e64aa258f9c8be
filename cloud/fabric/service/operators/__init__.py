"""What operators do: tenants, codes, tokens, node lists, standing."""
