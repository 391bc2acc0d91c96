"""Time and motion: what the order of frames teaches."""
