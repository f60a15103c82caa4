"""``cdvision bench faces``: attributes and pictures of faces at few bytes, beside codecs."""
