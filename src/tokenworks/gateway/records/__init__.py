"""What is noted of a request on its way, and the one record that comes of it."""
