"""Ways to run the processes."""
