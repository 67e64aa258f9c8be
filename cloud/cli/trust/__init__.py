"""Command group: `cascade trust`, which shows, signs and publishes the installation's trust."""
