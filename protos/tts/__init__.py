"""Protocol packages, one folder a version."""
