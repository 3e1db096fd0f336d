"""The language model, the sentence encoder and the embedding predictor."""
