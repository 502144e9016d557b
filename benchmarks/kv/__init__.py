"""What the KV store, the split of prefill and decode, and survival are worth: whole systems, measured from outside."""
