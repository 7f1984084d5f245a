"""Answers: everything that asks a trained model something."""
