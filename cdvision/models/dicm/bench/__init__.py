"""Measurements of DICM's models that no task's score tells."""
