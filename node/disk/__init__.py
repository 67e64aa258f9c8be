"""The disk: durable files, and the identity in them."""
