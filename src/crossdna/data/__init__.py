"""Genomes, regions, variants, tracks, windows and labelled sets."""
