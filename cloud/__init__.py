"""The cloud side of Cascade: the services and what they share. It never imports the node side."""
