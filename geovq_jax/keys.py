"""Every key of a configuration, one line each: default, meaning and accepted values."""

from typing import Any, NamedTuple

from geovq_jax.checks import ANY, FRACTION, NOT_EMPTY, SEED, SHARE, SIZES, Check, above, at_least, each, one_of


class Key(NamedTuple):
    """One key of a configuration: default, meaning in one line, accepted values.

    The type of a key is that of its default; an empty default tuple holds integers.
    """

    default: Any
    meaning: str
    check: Check = ANY


AUGMENT = one_of("none", "rotate", "crop_flip")
KIND = one_of("vanilla", "spatial", "external")
LOSS = one_of("bernoulli", "mse", "l1", "calibrated")
BACKEND = one_of("auto", "jax", "kdtree", "faiss", "faiss_hnsw", "faiss_ivf")
CROPS = ("fit", "pad", "centre")
IMAGE_SIZE = Check("empty, or two sides >= 1", lambda sides: len(sides) in (0, 2) and min(sides, default=1) >= 1)
OUTPUT_METRIC = one_of("pixels", "bernoulli", "features")
UNCERTAINTY = one_of("none", "std")
RATE = one_of("tables", "prior")
SCHEDULE = one_of("cosine", "step", "constant")
SEEDING = one_of("kmeans++", "greedy", "batched", "random", "farthest")

# A comparison takes each method also with the suffix _context (codes.search), and models that are trained jointly.
METHODS = (
    *("gaussian", "scalar", "kmeans", "kmedoids", "kmeans_decoded"),
    *("mean_metric", "local_metrics", "geodesic", "geodesic_means", "geodesic_refined", "geodesic_decoded"),
)
OF_VECTORS = ("kmeans_decoded",)  # methods that grids of cells have no use for
JOINT = ("vqvae", "vqvae_tuned", "vqvae_context", "vqvae_double", "geodesic_joint")
METRIC_VARIANTS = tuple(f"geodesic_means_{metric}" for metric in ("bernoulli", "features", "uncertainty"))
METHOD = one_of("auto", *METHODS)
_ALONE = (*METRIC_VARIANTS, *JOINT)
COMPARED = Check(
    f"a method of codebook.method, with or without the suffix _context, or one of {', '.join(_ALONE)}",
    {*METHODS, *(f"{name}_context" for name in METHODS), *_ALONE}.__contains__,
)
COMPARISON = (
    *("gaussian", "scalar", "kmeans", "kmedoids", "mean_metric", "local_metrics", "geodesic", "geodesic_refined"),
    *("kmeans_context", "geodesic_refined_context", "vqvae", "vqvae_context", "geodesic_joint"),
)
WITH_PRIOR = ("kmeans", "geodesic_refined_context", "vqvae")

KEYS: dict[str, Key] = {
    "name": Key("default", "name of the experiment with its variants; the work directory is runs/NAME", NOT_EMPTY),
    "seed": Key(0, "seed of splits, initial weights, batches and clustering", SEED),
    "tracker": Key("none", "where training curves go besides metrics.jsonl", one_of("none", "tensorboard", "mlflow")),
    "data.name": Key("mnist5k", "stock data set, folder:PATH, npz:PATH, codes:PATH, or decoded", NOT_EMPTY),
    "data.dir": Key("", "folder that is searched for data files first; empty for $GEOVQ_DATA"),
    "data.image_size": Key((), "height and width of images of a folder; empty for 32 x 32", IMAGE_SIZE),
    "data.crop": Key("fit", "resize the central part, resize the whole on black, or only cut", one_of(*CROPS)),
    "data.batch_size": Key(64, "images per training step of VAE, decoder and VQ-VAE", at_least(1)),
    "data.augment": Key("none", "augmentation of training images; rotate turns by at most 10 degrees", AUGMENT),
    "data.max_train": Key(0, "size of a stratified subset of the training images; 0 for all", at_least(0)),
    "data.max_valid": Key(0, "size of a stratified subset of the validation images; 0 for all", at_least(0)),
    "data.max_test": Key(0, "size of a stratified subset of the test images; 0 for all", at_least(0)),
    "vae.kind": Key("spatial", "latents: one vector per image, a grid of vectors, or those of vae.module", KIND),
    "vae.module": Key("", "file.py or package.module of an autoencoder of your own, for vae.kind=external"),
    "vae.latent_dim": Key(16, "dimension of one latent vector", at_least(1)),
    "vae.channels": Key((64, 128, 256), "channels after each stride-2 convolution", SIZES),
    "vae.norm": Key("none", "normalisation between convolutions", one_of("none", "group", "layer")),
    "vae.output": Key("sigmoid", "output map of the decoder", one_of("sigmoid", "identity")),
    "vae.loss": Key("bernoulli", "reconstruction term; calibrated is the squared error at its optimal variance", LOSS),
    "vae.uncertainty": Key(
        "none", "std: the metric adds that of a standard deviation fitted to residuals", UNCERTAINTY
    ),
    "vae.beta": Key(0.5, "weight of the rate", at_least(0)),
    "vae.beta_anneal_steps": Key(0, "steps over which the weight grows linearly from 0; 0 for none", at_least(0)),
    "vae.free_bits": Key(0.0, "nats per latent dimension that cost nothing", at_least(0)),
    "vae.cell_bits": Key(0.0, "bits per latent vector that the rate is steered to; 0 for none", at_least(0)),
    "vae.capacity": Key(0.0, "nats per image that the rate is steered to; 0 for none", at_least(0)),
    "vae.capacity_steps": Key(0, "steps over which the capacity grows linearly from 0; 0 for none", at_least(0)),
    "vae.capacity_mode": Key("abs", "penalise any gap to the capacity, or only an excess", one_of("abs", "clipped")),
    "vae.learning_rate": Key(1e-3, "peak learning rate", above(0)),
    "vae.weight_decay": Key(1e-4, "weight decay of AdamW", at_least(0)),
    "vae.schedule": Key("cosine", "decay of the learning rate; step halves it at each third", SCHEDULE),
    "vae.clip_norm": Key(1.0, "largest norm of a gradient; 0 for any", at_least(0)),
    "vae.warmup_steps": Key(100, "steps of linear warm-up", at_least(0)),
    "vae.num_steps": Key(20_000, "maximum number of training steps", at_least(1)),
    "vae.evaluate_every": Key(1_000, "training steps between evaluations on the validation split", at_least(1)),
    "vae.patience": Key(5, "evaluations without improvement after which training stops", at_least(1)),
    "vae.joint_steps": Key(0, "further steps as a joint VQ-VAE that starts from K-means; 0 for none", at_least(0)),
    "vae.joint_codes": Key(256, "number of codes of the joint VQ-VAE", at_least(2)),
    "graph.k": Key(0, "neighbours per node; 0: 15 for cells, 8 per dimension for vectors, from 15 to 60", at_least(0)),
    "graph.symmetry": Key("union", "keep edges that either end lists, or both", one_of("union", "mutual")),
    "graph.metric": Key("euclidean", "distance by which neighbours are searched", one_of("euclidean", "cosine")),
    "graph.backend": Key("auto", "neighbour search; faiss_hnsw and faiss_ivf are approximate", BACKEND),
    "graph.rerank": Key(0, "candidates per node that are re-ranked by pull-back length; 0 for none", at_least(0)),
    "graph.weights": Key("pullback", "edge lengths", one_of("pullback", "euclidean")),
    "graph.output_metric": Key("pixels", "metric of image space; features: of the run's classifier", OUTPUT_METRIC),
    "graph.context": Key("own", "Jacobian of a cell: in its own image, or alone", one_of("own", "isolated")),
    "graph.repair": Key(True, "whether connected components are joined by their shortest bridges"),
    "graph.num_images": Key(0, "images in the graph, a random subset; 0 for all", at_least(0)),
    "codebook.num_clusters": Key(256, "number of codes K", at_least(1)),
    "codebook.method": Key("auto", "codes; auto: geodesic_refined (spatial), geodesic_decoded (vanilla)", METHOD),
    "codebook.distance": Key("geodesic", "of geodesic codes; graph: shortest paths", one_of("geodesic", "graph")),
    "codebook.algorithm": Key("swap", "K-medoids; alternate is faster, at a higher cost", one_of("swap", "alternate")),
    "codebook.init": Key("kmeans++", "seeding of K-medoids", SEEDING),
    "codebook.rounds": Key(100, "maximum number of K-medoids rounds", at_least(1)),
    "codebook.neighbours": Key(15, "graph nodes that a held-out latent is connected to", at_least(1)),
    "codebook.finetune_decoder": Key(True, "whether the decoder is fine-tuned on code vectors"),
    "codebook.finetune_steps": Key(3_000, "training steps of the fine-tuning", at_least(1)),
    "codebook.finetune_learning_rate": Key(5e-4, "peak learning rate of the fine-tuning", above(0)),
    "codes.search": Key("none", "search for the codes that best match the whole image", one_of("none", "context")),
    "codes.rate_weight": Key(0.0, "squared error of an image that a bit of a searched code may cost", at_least(0)),
    "codes.rate": Key("tables", "what counts bits in the last search: tables, or a prior without classes", RATE),
    "codes.sweeps": Key(3, "sweeps over the grid per search", at_least(1)),
    "codes.searches": Key(4, "searches of all codes, one before each equal part of the fine-tuning", at_least(1)),
    "vqvae.method": Key("ema", "quantizer of the joint model", one_of("ema", "fsq")),
    "vqvae.loss": Key("bernoulli", "reconstruction term of the joint model", LOSS),
    "vqvae.gradient": Key("straight_through", "gradient through the quantizer", one_of("straight_through", "rotation")),
    "vqvae.commitment": Key(0.25, "weight of the commitment term", above(0)),
    "vqvae.decay": Key(0.99, "decay of the moving averages", FRACTION),
    "vqvae.reseed": Key(0.1, "share of uniform usage below which a code is reset; 0 for never", FRACTION),
    "vqvae.levels": Key((), "levels per dimension, for fsq", each(at_least(2), minimum=0)),
    "prior.embed_dim": Key(192, "width of the transformer, a multiple of prior.num_heads", at_least(1)),
    "prior.num_layers": Key(6, "transformer blocks", at_least(1)),
    "prior.num_heads": Key(6, "attention heads per block", at_least(1)),
    "prior.positions": Key("2d", "position embeddings: one per place, or row plus column", one_of("1d", "2d")),
    "prior.tied": Key(True, "whether the output layer is the transposed code embedding"),
    "prior.bfloat16": Key(False, "whether matrix products run in bfloat16"),
    "prior.dropout": Key(0.1, "dropout rate", FRACTION),
    "prior.label_smoothing": Key(0.0, "probability mass of the target that is spread over all codes", FRACTION),
    "prior.label_dropout": Key(0.1, "share of images trained without their class, which guidance needs", FRACTION),
    "prior.learning_rate": Key(1e-3, "peak learning rate of the cosine schedule", above(0)),
    "prior.weight_decay": Key(0.05, "weight decay of AdamW", at_least(0)),
    "prior.warmup_steps": Key(200, "steps of linear warm-up", at_least(0)),
    "prior.batch_size": Key(64, "sequences per training step", at_least(1)),
    "prior.num_steps": Key(20_000, "maximum number of training steps", at_least(1)),
    "prior.evaluate_every": Key(500, "training steps between evaluations on the validation split", at_least(1)),
    "prior.patience": Key(6, "evaluations without improvement after which training stops", at_least(1)),
    "sample.num_samples": Key(100, "images to sample", at_least(1)),
    "sample.temperature": Key(1.0, "divisor of the logits; 0 takes the most likely code", at_least(0)),
    "sample.top_k": Key(0, "sample among the k most likely codes; 0 for all", at_least(0)),
    "sample.top_p": Key(1.0, "sample among the most likely codes of this total probability; 1 for all", SHARE),
    "sample.min_p": Key(0.0, "sample among codes with this fraction of the largest probability; 0 for all", FRACTION),
    "sample.guidance": Key(1.0, "scale of classifier-free guidance; 1 for none", at_least(0)),
    "sample.class_id": Key(-1, "class to sample; -1 for every class, -2 for none", at_least(-2)),
    "sample.num_completions": Key(6, "completions per image, by default of its upper half; 0 for none", at_least(0)),
    "sample.seed": Key(0, "seed of the samples", SEED),
    "classifier.channels": Key((32, 64), "channels of the classifier that scores samples", SIZES),
    "classifier.num_features": Key(128, "dimension of its feature vector", at_least(1)),
    "classifier.augment": Key("none", "augmentation of its training images", AUGMENT),
    "classifier.batch_size": Key(64, "images per training step", at_least(1)),
    "classifier.learning_rate": Key(2e-3, "peak learning rate", above(0)),
    "classifier.weight_decay": Key(1e-2, "weight decay of AdamW", at_least(0)),
    "classifier.num_steps": Key(4_000, "training steps", at_least(1)),
    "scores.num_items": Key(2_000, "images per scored set", at_least(1)),
    "scores.guidance": Key(2.0, "a second guidance scale at which samples are scored", at_least(0)),
    "scores.resamples": Key(40, "bootstrap resamples per interval", at_least(1)),
    "compare.seeds": Key((0, 1, 2), "seeds of a comparison", each(SEED, minimum=1)),
    "compare.methods": Key(COMPARISON, "methods of a comparison", each(COMPARED, minimum=1)),
    "compare.rate_weights": Key((0.0,), "codes.rate_weight of methods with search", each(at_least(0), minimum=1)),
    "compare.prior": Key(WITH_PRIOR, "methods for which a prior is trained", each(COMPARED, minimum=0)),
    "evaluate.geometry_pairs": Key(200, "targets of shortest paths in the report", at_least(1)),
    "evaluate.geodesic_pairs": Key(200, "pairs of images for which geodesics are computed; 0 for none", at_least(0)),
    "mesh.data": Key(1, "devices over which batches and chunks are sharded; 0 for all", at_least(0)),
    "mesh.shard_parameters": Key(False, "whether parameters and optimiser state are sharded during training"),
}
