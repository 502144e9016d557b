"""KV blocks outside the engines: the neutral format, the store and its client, and the tiers below it. No torch."""
