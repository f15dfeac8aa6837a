"""The metadata store's schema, as Alembic revisions; packaged, so that an installed wheel can open.

Add here: one file in `versions/` for each change, never an edit of one that was released, and the
same words for SQLite and PostgreSQL. Not here: the tables as the code uses them
(`../tables.py`; a test holds both equal), engine set-up.
"""
