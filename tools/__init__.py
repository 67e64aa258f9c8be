"""Tools of the repository itself: setup, locks, and an import contract. Nothing here ships."""
