"""Training state, step, loop, checkpoints and tracking."""
