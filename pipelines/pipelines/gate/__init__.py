"""The promotion gate: what serves is known to be better, the same everywhere, and without future."""
