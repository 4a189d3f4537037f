"""A seeded world whose truth is known, with users who react to what they are served."""
