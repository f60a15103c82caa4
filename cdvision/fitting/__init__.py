"""Fits a tap for a network of the user's: streams that exist already then feed it too."""
