"""The MLflow mirror of the results."""
