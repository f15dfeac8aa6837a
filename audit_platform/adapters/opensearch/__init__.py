"""HOT on OpenSearch: see README.md for the life of a write and what is known not to work."""
