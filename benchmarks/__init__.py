"""Measured figures of the hot paths; each prints its own. Not tests: nothing here can fail."""
