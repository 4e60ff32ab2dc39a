"""Masks and scenes against the truth."""
