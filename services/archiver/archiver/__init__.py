"""Kafka to Delta Lake: each log record exactly once."""
