"""Methods that learn one task after the other."""
