"""Feast for other teams: definitions from the use case, our two stores behind its SDK, SQL registry and UI.

Only `environment` and `command` can be imported everywhere; the other modules need Feast, which has an environment of
its own (the extra `feast`).
"""
