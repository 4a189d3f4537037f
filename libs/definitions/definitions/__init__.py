"""The use-case schema and the feature algebra: arrays in, arrays out."""
