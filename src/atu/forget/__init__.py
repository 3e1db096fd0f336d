"""Forgetting a concept by name: the model writes the corpora, the usual phases do the rest."""
