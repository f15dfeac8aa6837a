"""The edge's disk spool: entries that are durable until the platform has archived them."""
