"""Applications around the model call: spans in, critical paths, spans out."""
