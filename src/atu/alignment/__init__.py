"""Windows, cached hidden states, the alignment loop, causal tracing."""
