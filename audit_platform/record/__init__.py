"""Pure truth: event, chain, Merkle tree, manifest, names, fsck. Bytes in, verdicts out.

No network, no clock, no Dagster, no vendor's SDK; an outsider could run this alone.
"""
