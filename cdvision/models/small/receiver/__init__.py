"""What a receiver of `small` needs: the coder of a map with a descriptor."""
