"""The cloud side of Cascade: the services, and the code that they share. The package never imports `node`."""
