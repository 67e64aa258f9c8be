"""The migrations of Fabric, in order of their ids."""
