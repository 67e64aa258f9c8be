"""Use cases of recoveries: the codes that machines present."""
