"""The offline store: Delta tables of what happened, what was shown and what was decided."""

from stores.offline.lake import Lake, Part, app_id

__all__ = ["Lake", "Part", "app_id"]
