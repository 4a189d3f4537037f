"""Retrieval: models that order the whole catalogue for a user, and how they are served from a bundle."""
