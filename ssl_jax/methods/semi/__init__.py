"""Semi-supervised learning: some images have labels."""
