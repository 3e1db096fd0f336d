"""Benchmarks, prompts, windows and batches."""
