"""The published data sets: where they come from, how they are read, divided, checked and prepared."""
