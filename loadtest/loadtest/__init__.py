"""Locust users, an open-loop generator, SLO targets as data."""
