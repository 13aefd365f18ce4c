"""Where experts go: sensitivity of the frozen weights, and the strategies that turn it into experts per module."""
