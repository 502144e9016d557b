"""The HTTP face: OpenAI endpoints in front, workers over ZeroMQ behind."""
