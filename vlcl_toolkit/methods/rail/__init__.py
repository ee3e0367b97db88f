"""RAIL, one file per idea; `rail.py` opens with the paper's steps."""
