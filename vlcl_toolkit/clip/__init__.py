"""The backbone: an open_clip CLIP, its weights and its image transforms."""
