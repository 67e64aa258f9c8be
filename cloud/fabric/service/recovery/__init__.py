"""Use cases of recoveries: claims, cases and decisions, the codes that machines present, the replaced machine."""
