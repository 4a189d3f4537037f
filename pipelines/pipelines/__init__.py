"""Datasets, training sets, trainers, evaluation, deploy, precompute."""
