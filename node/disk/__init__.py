"""The disk: durable files, and the node's identity in files."""
