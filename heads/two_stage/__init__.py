"""Selection of a two-stage detector in numpy: proposals, RoIAlign, boxes, masks.

Results equal torchvision's. An engine runs the dense parts between the steps.
"""
