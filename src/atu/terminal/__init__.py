"""What the terminal shows of an experiment: what is done, what came out, and where it is from."""
