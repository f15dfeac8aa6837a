"""Real servers on one machine, for demonstrations and tests: had, started, asked, broken, stopped.

Belongs here: one module a server (`model.Server`), and what treats them all alike. Does not: what
the platform asks of them (`adapters/`), production (`deploy/`). Nothing of the platform's own way
imports this package. Source: design section 9 (profiles).
"""
