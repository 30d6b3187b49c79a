"""What the gateway is held against: a relay that does nothing but relay, and a worker that does nothing but send."""
