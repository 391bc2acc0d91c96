"""What three or more methods use."""
