"""The gRPC contract between gateway, workers and internal callers, and a thin client for it."""
