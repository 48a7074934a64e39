"""Codebooks, tokenizing, baselines and the health of codes."""
