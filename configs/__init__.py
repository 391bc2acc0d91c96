"""One config a method; `common.py` holds what they share."""
