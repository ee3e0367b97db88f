"""Continual learning of CLIP models."""
