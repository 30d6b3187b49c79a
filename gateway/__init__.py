"""The gateway: an OpenAI-compatible HTTP API that relays speech from gRPC workers."""
