"""Tokenizers: sequence letters to ids and back."""
