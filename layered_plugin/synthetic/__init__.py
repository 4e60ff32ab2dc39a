"""Data sets with true masks, drawn or put together."""
