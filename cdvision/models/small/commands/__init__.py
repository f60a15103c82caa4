"""`cdvision train ...`: the stages and the package of `small`."""
