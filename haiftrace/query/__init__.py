"""A prompt and a response as tokens."""
