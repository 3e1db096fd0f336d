"""Job folders, manifests, checkpoints, locks, tables, and the sources that determine a phase."""
