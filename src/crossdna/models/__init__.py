"""Networks: one folder per architecture."""
