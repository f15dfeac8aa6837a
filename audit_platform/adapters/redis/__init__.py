"""Rate limits that all processes share, in Redis."""
