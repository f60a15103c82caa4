"""`hsc` and `sfic-style`: faces, machine answers first and the picture later."""
