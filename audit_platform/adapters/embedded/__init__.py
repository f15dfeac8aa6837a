"""The embedded profile: log, objects, metadata and keys on one machine's files, no server."""
