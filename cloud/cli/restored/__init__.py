"""Commands after a restore of the cloud from a backup, and after the loss of its database."""
