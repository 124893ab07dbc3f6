"""Files and folders: whole or absent, whose they are, what is in them."""
