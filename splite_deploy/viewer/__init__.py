"""The page of ``run --view``: what the loop found last, served to browsers while it goes on."""
