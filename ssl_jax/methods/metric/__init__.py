"""Metric learning: embeddings of one class are near, those of different classes far."""
