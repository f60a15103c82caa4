"""Accuracy from real streams, and of the same networks without a codec."""
