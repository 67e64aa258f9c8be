"""Service: Ledger, the billing authority. It is not built yet."""
