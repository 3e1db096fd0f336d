"""Answers and scores: generation, teacher forcing, batching, the bridge to lm-eval."""
