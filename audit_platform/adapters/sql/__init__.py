"""What SQLite and PostgreSQL share: tables, statements, changes of the schema."""
