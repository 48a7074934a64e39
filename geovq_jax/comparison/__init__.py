"""Comparisons of methods over several seeds."""
