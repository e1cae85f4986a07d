"""The storage: our tables and Optuna's in one database, artifacts in a folder."""

from automl_prune.storage.opening import StudyStorage, migrate_storage, open_storage

__all__ = ["StudyStorage", "migrate_storage", "open_storage"]
