"""A method's run: its context, its stages, its trajectory, and which point is kept."""
