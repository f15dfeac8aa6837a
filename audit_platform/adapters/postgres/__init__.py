"""The metadata store of the `stack` profile, in PostgreSQL."""
