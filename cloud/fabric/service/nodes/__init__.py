"""What nodes do: activate, confirm, open sessions, fetch statements, renew; and lapses."""
