"""Deep rankers on PyTorch: models, data-parallel training, export.

Importing this package costs nothing; its modules import torch, which is a dependency group of its own (`make deep`).
"""
