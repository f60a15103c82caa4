"""Model packages: folders that hold everything one model needs, each file hashed in its card."""
