"""Text before it reaches an engine; pure functions."""
