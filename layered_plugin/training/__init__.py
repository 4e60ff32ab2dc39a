"""Training the layered generator."""
