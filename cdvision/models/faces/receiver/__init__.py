"""What a receiver of faces needs: the coders of `hsc` and `sfic-style`."""
