"""One module per phase; each has one `run` that writes one folder."""
