"""Masked images: what is hidden is predicted."""
