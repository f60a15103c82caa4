"""`dicm` and `dicm-re`: ResNet-50 features for many tasks from one stream."""
