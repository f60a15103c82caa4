"""The training stages of `small`."""
