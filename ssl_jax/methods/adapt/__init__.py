"""Domain adaptation: labels in one domain, images of another."""
