"""DIKI and prefix tuning: prompts inside attention."""
