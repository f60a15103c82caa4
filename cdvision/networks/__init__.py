"""PyTorch networks of the models; importing this package alone loads nothing heavy."""
