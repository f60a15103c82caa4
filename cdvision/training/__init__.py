"""Training of the models in this repository; needs the ``torch`` extra."""
