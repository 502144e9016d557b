"""Tokenworks serves language models on whatever compute there is, and accounts for every millisecond and cent."""

__version__ = "0.1.0"
