"""The command line: ``automl-prune``."""

from automl_prune.cli.app import main

__all__ = ["main"]
