"""Where the store keeps blocks beyond its own memory: disk and remote."""
