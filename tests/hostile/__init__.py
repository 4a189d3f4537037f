"""Callers who mean harm: what they send, and a run that sends all of it to a secured stack."""
