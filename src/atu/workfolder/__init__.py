"""The folder in which a command of one line runs the workflow: its files, its lock, its results."""
