"""Codebooks: methods that fit code vectors to latents, assignment of codes, search, refinement, baselines."""

from geovq_jax.quantization.assignment import Quantizer, assign, measure, search
from geovq_jax.quantization.codebook import Codebook, lookup
from geovq_jax.quantization.context import InContext, encode_in_context
from geovq_jax.quantization.estimator import GeodesicQuantizer
from geovq_jax.quantization.methods import METHODS, Clusters, Method, Nodes, fit
from geovq_jax.quantization.pullback_kmeans import PullbackKMeans, assign_pullback, pullback_kmeans
from geovq_jax.quantization.refinement import Refined, refine_cell_centres, refine_centres
from geovq_jax.quantization.tokenizer import (
    Encoded,
    Tokenizer,
    encode,
    encode_measured,
    load_tokenizer,
    save_tokenizer,
)

__all__ = [
    "METHODS",
    "Clusters",
    "Codebook",
    "Encoded",
    "GeodesicQuantizer",
    "InContext",
    "Method",
    "Nodes",
    "PullbackKMeans",
    "Quantizer",
    "Refined",
    "Tokenizer",
    "assign",
    "assign_pullback",
    "encode",
    "encode_in_context",
    "encode_measured",
    "fit",
    "load_tokenizer",
    "lookup",
    "measure",
    "pullback_kmeans",
    "refine_cell_centres",
    "refine_centres",
    "save_tokenizer",
    "search",
]
