"""MoE-Adapters: routed experts beside every block, and the auto-selector."""
