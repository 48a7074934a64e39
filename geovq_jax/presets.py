"""Overrides that several experiments of `configs/` share: sizes for tests, sizes and methods of the comparisons."""

# Shrinks any experiment to seconds: every stage runs, but the scores are meaningless.
SMOKE = {
    "data.max_train": 400,
    "data.max_valid": 100,
    "data.max_test": 100,
    "data.batch_size": 32,
    "vae.channels": (8, 16, 32),
    "vae.latent_dim": 4,
    "vae.num_steps": 60,
    "vae.joint_steps": 0,
    "vae.evaluate_every": 20,
    "vae.warmup_steps": 5,
    "graph.k": 8,
    "graph.num_images": 200,
    "codebook.num_clusters": 32,
    "codebook.rounds": 3,
    "codebook.finetune_steps": 20,
    "codes.sweeps": 1,
    "codes.searches": 1,
    "prior.embed_dim": 32,
    "prior.num_layers": 2,
    "prior.num_heads": 2,
    "prior.num_steps": 40,
    "prior.evaluate_every": 20,
    "prior.warmup_steps": 5,
    "sample.num_samples": 20,
    "sample.num_completions": 2,
    "classifier.channels": (8, 16),
    "classifier.num_features": 16,
    "classifier.num_steps": 40,
    "scores.num_items": 60,
    "scores.resamples": 5,
    "evaluate.geometry_pairs": 20,
    "evaluate.geodesic_pairs": 2,
}


# Sizes and budget of the comparisons: a seed takes a quarter of an hour on two cores. The VQ-VAE is trained for
# vae.num_steps + codebook.finetune_steps steps. docs/results.md explains the seven bits per cell.
COMPARE = {
    "data.max_train": 20_000,
    "data.max_valid": 2_000,
    "data.max_test": 4_000,
    "vae.channels": (16, 32, 128),
    "vae.latent_dim": 8,
    "vae.beta": 1.0,
    "vae.cell_bits": 7.0,
    "vae.learning_rate": 2e-3,
    "vae.num_steps": 2_000,
    "vae.evaluate_every": 500,
    "graph.num_images": 2_000,
    "codebook.finetune_steps": 800,
    "codebook.finetune_learning_rate": 2e-3,
    "prior.embed_dim": 96,
    "prior.num_layers": 3,
    "prior.num_heads": 4,
    "prior.learning_rate": 2e-3,
    "prior.num_steps": 700,
    "prior.evaluate_every": 350,
    "classifier.learning_rate": 3e-3,
    "classifier.num_steps": 1_500,
}


COMPARE_METHODS = (
    *("kmeans", "mean_metric", "geodesic", "geodesic_refined"),
    *("kmeans_context", "geodesic_refined_context", "vqvae", "vqvae_context"),
)


# Rate-distortion curves: codes at what they cost under a prior trained until it no longer improves, every method with
# and without the same search and fine-tuning of the decoder. A trial takes eight minutes on a core. The rate of a cell
# is log2 3K, see docs/results.md.
_CURVES = ("kmeans", "mean_metric", "geodesic_refined")
COMPARE_RATE = {
    "data.max_train": 10_000,
    "data.max_valid": 1_000,
    "data.max_test": 2_000,
    "vae.cell_bits": 9.6,
    "codebook.finetune_steps": 1_600,
    "codes.sweeps": 4,
    "codes.searches": 4,
    "prior.embed_dim": 64,
    "prior.num_layers": 2,
    "prior.learning_rate": 6e-3,
    "prior.num_steps": 2_500,
    "prior.evaluate_every": 250,
    "prior.patience": 10,
    "compare.rate_weights": (0.05, 0.1, 0.2),
} | dict.fromkeys(
    ("compare.methods", "compare.prior"),
    (
        *(f"{name}{search}" for name in _CURVES for search in ("", "_context")),
        *("vqvae", "vqvae_tuned", "vqvae_context"),
    ),
)


# As the curves, after COMPARE_RATE: the last three fifths of the autoencoder's steps train it as a joint VQ-VAE.
COMPARE_JOINT = {"vae.num_steps": 800, "vae.joint_steps": 1_200} | dict.fromkeys(
    ("compare.methods", "compare.prior"), ("mean_metric", "mean_metric_context", "vqvae", "vqvae_context")
)


# One code per image. Fitted to few latents: geodesic K-means takes minutes per metric, up to twenty for features.
COMPARE_VANILLA = {
    "data.max_train": 5_000,
    "data.max_valid": 500,
    "data.max_test": 2_000,
    "vae.kind": "vanilla",
    "vae.latent_dim": 8,
    "vae.cell_bits": 0.0,
    "codebook.num_clusters": 64,
    "compare.methods": (
        *("gaussian", "scalar", "kmeans", "kmedoids", "kmeans_decoded", "mean_metric", "geodesic_decoded", "vqvae"),
        *("geodesic_means", "geodesic_means_bernoulli", "geodesic_means_features", "geodesic_means_uncertainty"),
    ),
    "compare.prior": (),
}


COMPARE_SMOKE = SMOKE | {
    "codebook.num_clusters": 16,
    "compare.seeds": (0, 1),
    "compare.methods": (
        *("kmeans", "geodesic", "geodesic_refined"),
        *("kmeans_context", "geodesic_refined_context", "vqvae"),
    ),
    "compare.prior": ("kmeans",),
}
