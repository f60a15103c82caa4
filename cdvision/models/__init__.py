"""The families of models: one folder tells the whole story of each."""
