"""Numerical operators: one folder each, one public function, several backends."""
