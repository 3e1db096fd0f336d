"""What forgetting costs: the numbers that a run counts, a search adds up and the report shows."""

from __future__ import annotations

COSTS = ("model_steps", "predictor_steps", "tokens")
"""Steps of the model (or of what stands in for it), steps of predictors, and real tokens that
training read, of every corpus, alignment aside."""
