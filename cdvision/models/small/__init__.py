"""`small`: photos to boxes, masks and classes, in two layers."""
