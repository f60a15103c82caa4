"""Encoders trained for any set of networks of a user."""
