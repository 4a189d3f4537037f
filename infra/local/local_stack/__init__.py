"""Starts, probes and stops the whole topology natively: real servers or embedded ones, then our own services."""
