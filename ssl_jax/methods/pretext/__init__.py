"""Pretext tasks: labels that the images themselves give."""
