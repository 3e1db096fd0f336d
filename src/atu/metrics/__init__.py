"""Pure functions from answers and scores to numbers."""
