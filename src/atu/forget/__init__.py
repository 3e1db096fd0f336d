"""Forgetting a concept by its name: the model writes the corpora, the usual phases do the rest."""
