"""A sealed record per format version, as an outsider holds it, verified for ever.

`v1/` is never made again: when the format changes, `v2/` stands beside it. `v1r/` is the same
format with revisions and gaps that are counted only. `make.py` made them.
"""
