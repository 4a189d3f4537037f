"""Logged decisions made again, bit for bit: logged features, the very bundle, the very rules."""

from pipelines.redo.report import publish
from pipelines.redo.run import run

__all__ = ["publish", "run"]
