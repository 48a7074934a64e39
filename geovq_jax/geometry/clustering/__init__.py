"""Clustering on graphs: seeding, K-medoids by alternation and by swaps."""
