"""Alembic revisions of our own tables, oldest first; run by ``automl_prune.storage.schema``."""
