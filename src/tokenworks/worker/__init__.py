"""The worker process: one engine on one device slice, dialled in to its gateways."""
