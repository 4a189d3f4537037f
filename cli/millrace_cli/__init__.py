"""`millrace`, the one command people type. Thin: parses, calls, prints."""
