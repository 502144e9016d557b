"""The command `tokenworks`."""

from tokenworks.cli.main import main

__all__ = ["main"]
