"""Background work: stop signal, periodic work, back-off, locks by key, counts per caller and period."""
