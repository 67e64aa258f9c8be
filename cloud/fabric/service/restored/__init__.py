"""Use cases: what Fabric does after its database or Breakwater's was restored from a backup, or was lost."""
