"""Job folders, manifests, checkpoints, locks, tables, and which sources decide a phase."""
