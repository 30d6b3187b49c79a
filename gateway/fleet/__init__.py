"""The workers as the gateway sees them."""
