"""The published trust: publishing, following, and counting who has adopted it."""
