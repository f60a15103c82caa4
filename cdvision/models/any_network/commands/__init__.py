"""`cdvision train encoder`, and the packages of its runs."""
