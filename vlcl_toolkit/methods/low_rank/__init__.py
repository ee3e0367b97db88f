"""LoRA, KeepLoRA and NuSA-CL, one file per method; `branches.py` is what they share."""
