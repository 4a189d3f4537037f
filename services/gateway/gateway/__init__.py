"""Ranks over gRPC: features, Triton, re-rank, a ladder instead of failures."""
