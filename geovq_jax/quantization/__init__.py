"""Codebooks, tokenizing, baselines."""
