"""The ranks that share one job, and how they are started."""
