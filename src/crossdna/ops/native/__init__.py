"""Compiled CPU kernels: C++ sources, and building and loading them on request."""
