"""Loops that PyTorch has no operator for."""
