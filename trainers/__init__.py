"""Trainers for the paper's three stages, on top of `transformers.Trainer`."""

from .checkpoints import latest_checkpoint
from .contrastive import ContrastiveTrainer
from .contrastive_config import ContrastiveConfig
from .mlm import MLMConfig, MLMTrainer

__all__ = ["ContrastiveConfig", "ContrastiveTrainer", "MLMConfig", "MLMTrainer", "latest_checkpoint"]
