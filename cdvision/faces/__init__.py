"""What is particular to pictures of faces."""
