"""Representations of sequences on file, and their picture."""
