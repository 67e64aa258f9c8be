"""Building blocks of background work: stop signal, periodic work, back-off, counts per caller and period."""
