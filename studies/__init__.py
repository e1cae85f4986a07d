"""Study files to start from; ``automl-prune search digits`` finds them by name."""
