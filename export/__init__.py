"""Export of dense graphs; reached as ``cdvision.export``."""
