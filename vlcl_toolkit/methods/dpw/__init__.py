"""DPW: DIKI's prompts with conditional weights (dpw.py begins)."""
