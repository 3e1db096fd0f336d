"""The processes that share one job, and how they are started."""
