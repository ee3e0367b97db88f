"""The embedded miniature: a small CLIP, and a stream of six visual domains that are drawn or ship with scikit-learn."""
