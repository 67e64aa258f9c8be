"""The migrations of Breakwater, in order of their ids."""
