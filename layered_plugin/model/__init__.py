"""Layers, the networks that draw and find them, and what is computed on them."""
