"""Training of the face models: generator, trunk with attributes, inversion encoder."""
