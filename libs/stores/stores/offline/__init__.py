"""The offline store: Delta tables of what happened, what was shown and what was decided."""

from stores.offline.lake import Lake, Part, Upkeep, app_id, table_names

__all__ = ["Lake", "Part", "Upkeep", "app_id", "table_names"]
