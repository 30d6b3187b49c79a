"""The worker: loads speech models and streams PCM over gRPC."""
