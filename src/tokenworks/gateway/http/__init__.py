"""From an HTTP request to its answer: bodies, formats, endpoints, and the pages beside them."""
