"""The step loop, losses and batches."""
