"""Ledger, the billing authority: nothing stands here yet."""
