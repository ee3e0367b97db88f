"""Our numbers against those recorded from the official implementations."""
