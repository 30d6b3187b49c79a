"""Audio on its way out: incremental, no HTTP."""
