"""Building blocks of background work: the stop signal and the back-off."""
