"""One module per part of the stack: how it is fetched, prepared, started and probed."""
