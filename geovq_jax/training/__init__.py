"""Training state, step, loop, checkpoints and tracking."""

__all__ = ["checkpoint", "loop", "optimizer", "tracking"]
