"""Everything raised on purpose.

::

    AutoMLPruneError
    ├── ConfigError (ValueError)             a study definition is wrong
    ├── DataError (ValueError)               data missing, corrupt, or unfit for the model
    ├── ModelError (ValueError)              a model cannot be built, loaded or trained
    │   ├── CheckpointError                  a checkpoint does not fit the model
    │   └── TraceError                       channels cannot be followed through the model
    ├── TrustError (PermissionError)         an import path that nobody allowed
    ├── StorageError (RuntimeError)          the storage cannot be reached or used
    │   ├── SchemaError                      the storage's schema is older or newer than ours
    │   ├── StudyNotFoundError (LookupError) no such study, trial, or an empty study
    │   └── StudyMismatchError               the study exists with another config
    ├── LimitError (ValueError)              no model satisfies the limits; reachable range named
    ├── ModelFolderError (ValueError)        a model folder is damaged or of a newer version
    ├── VerificationError                    a model folder is not what its manifest says
    └── EnvironmentProblemError (OSError)    this machine lacks something: disk, device, port

A message says what was asked, what was found, and what to do. The command line prints it on one
screen and exits with ``exit_code``: 2 for a user's mistake, 1 where a check failed.
"""


class AutoMLPruneError(Exception):
    """Root of everything raised on purpose."""

    exit_code = 2


class ConfigError(AutoMLPruneError, ValueError):
    """A study definition is wrong; the message names field, value and allowed range."""


class DataError(AutoMLPruneError, ValueError):
    """Data are missing, corrupt, or do not fit the model."""


class ModelError(AutoMLPruneError, ValueError):
    """A model cannot be built, loaded or trained."""


class CheckpointError(ModelError):
    """A checkpoint does not fit the model; the message names the keys."""


class TraceError(ModelError):
    """Channels cannot be followed through the model; the message names operation and place."""


class TrustError(AutoMLPruneError, PermissionError):
    """An import path outside the trusted packages was not allowed by the user."""


class StorageError(AutoMLPruneError, RuntimeError):
    """The storage cannot be reached or used; never carries a password."""


class SchemaError(StorageError):
    """The storage's schema is older or newer than this version of automl-prune."""


class StudyNotFoundError(StorageError, LookupError):
    """No such study or trial, or the study has nothing to show yet."""


class StudyMismatchError(StorageError):
    """A study of this name exists with another config; the message shows the difference."""


class LimitError(AutoMLPruneError, ValueError):
    """No model satisfies the limits; the message names the reachable range."""


class ModelFolderError(AutoMLPruneError, ValueError):
    """A model folder is damaged or was written by a newer version."""


class VerificationError(AutoMLPruneError):
    """A model folder is not what its manifest says; the message lists the differences."""

    exit_code = 1


class EnvironmentProblemError(AutoMLPruneError, OSError):
    """This machine lacks something: disk space, a device, a port, a package."""
