"""Forward migrations of the schema, as Alembic scripts; ``flag_analytics_database.setup`` runs them."""
