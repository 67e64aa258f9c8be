"""Commands and options that make an installation: `cascade init`, and where its databases are."""
