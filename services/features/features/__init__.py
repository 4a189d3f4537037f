"""Kafka to packed feature rows online, exactly once."""
