"""Joint embeddings: views of one image are brought together."""
