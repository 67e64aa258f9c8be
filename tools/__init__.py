"""Tools for the repository: set-up, locks, and the checks of source, pages and changelog."""
