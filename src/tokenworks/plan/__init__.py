"""Plans: traffic to replay now; later a simulator on the real decisions, and a search over fleets. Never torch."""
