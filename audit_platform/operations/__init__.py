"""What is done to the record, once, by anyone: close, seal, verify, reconcile.

Plain functions over ports, called by CLI verbs and Dagster assets alike.
"""
