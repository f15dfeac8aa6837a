"""What Alembic runs to bring a database up: the given connection, in the caller's transaction.

The caller opens the connection, holds the lock against other openers and commits. There is no
offline mode: nobody applies these revisions by hand.
"""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
