"""`cdvision train dicm ...`: the stages, heads and package of DICM."""
