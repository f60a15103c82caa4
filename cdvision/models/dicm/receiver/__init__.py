"""What a receiver of DICM needs: the checkerboard coder."""
