"""The HTTP API: parse, call, respond."""
