"""The gate: a process of its own that runs while the licence allows a vendor's unit. Standard library only."""
