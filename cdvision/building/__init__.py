"""Builds model packages: tables, proofs, graphs, parity, card; needs the ``train`` extra."""
