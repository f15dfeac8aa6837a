"""The edge's disk spool."""
