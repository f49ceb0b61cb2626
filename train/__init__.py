"""Training: data, losses, the loop, evaluation."""
