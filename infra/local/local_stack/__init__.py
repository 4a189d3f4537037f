"""Starts, probes and stops the whole topology natively."""
