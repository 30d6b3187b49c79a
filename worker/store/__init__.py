"""Where models come from and which of them are in memory."""
