"""Command line `cascade`: for operators of a cloud, and on the hosts of its services."""
