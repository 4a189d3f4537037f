"""Experiments: begun, grown and ended as decisions, and judged by what the lake says of their users."""
