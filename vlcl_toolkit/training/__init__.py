"""The continual loop, and what a run leaves on disk."""
