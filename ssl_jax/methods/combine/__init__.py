"""Baselines and combinations of methods."""
