"""The peers' runners, each run by the Python of that peer's own environment."""
