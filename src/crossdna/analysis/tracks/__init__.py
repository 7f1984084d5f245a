"""Tracks along whole chromosomes, and the page that shows them."""
