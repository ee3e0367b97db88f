"""The published data sets: where they come from, how they are read, split, checked and prepared."""
