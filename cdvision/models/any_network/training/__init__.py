"""``cdvision train encoder``: an encoder of one's own, for any set of networks."""
