"""Training of `dicm-re` and `dicm` in the paper's five stages (METHODS: Tang et al., 2025)."""
