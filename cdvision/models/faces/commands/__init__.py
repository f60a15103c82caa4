"""`cdvision train faces ...` and `cdvision bench faces`."""
