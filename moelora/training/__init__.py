"""Training: data order, the loop, its state, and the learning-rate choice."""
