"""`millrace`, the one command people type."""
