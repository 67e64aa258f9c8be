"""Use cases of operators: tenants, codes, tokens, standing of nodes; lists of nodes and of the audit."""
