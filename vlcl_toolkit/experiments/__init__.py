"""Several runs that belong together, and the papers' runs by name."""
