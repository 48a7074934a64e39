"""Where the trials of a method start: its code vectors and codes of every split, without search."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from geovq_jax.comparison.cells import METRIC_VARIANTS, SEARCHED
from geovq_jax.models import vqvae as models
from geovq_jax.quantization import methods
from geovq_jax.stages import vqvae
from geovq_jax.stages.codebook import nodes_of
from geovq_jax.stages.codes import assigned
from geovq_jax.stages.records import SPLITS, Autoencoder
from geovq_jax.stages.run import Run
from geovq_jax.stages.vae import fit_uncertainty


class Coded(NamedTuple):
    """An autoencoder, code vectors [K, d], split -> codes int32 [n] or [n, h, w], and the gradient steps spent."""

    model: Autoencoder
    vectors: np.ndarray
    codes: dict[str, np.ndarray]
    steps: int


def post_hoc_codes(name: str, run: Run) -> Coded:
    """Code vectors of a method on the run's nodes, and the codes of every split without search."""
    method, config = name.removesuffix(SEARCHED), run.config
    if name in METRIC_VARIANTS:
        method, run = "geodesic_means", _in_metric(run, name.removeprefix("geodesic_means_"))
    nodes = nodes_of(run, run.clusters)
    if method == "geodesic_means":  # the row "geodesic" is K-medoids of the graph
        nodes = nodes._replace(distance="geodesic")
    quantizer, _ = methods.fit(method, nodes, config.codebook.num_clusters, seed=config.seed)
    codes = {split: assigned(run, quantizer, split).codes for split in SPLITS}
    return Coded(run.autoencoder, quantizer.vectors, codes, vqvae.autoencoder_steps(config))


def _in_metric(run: Run, metric: str) -> Run:
    """The run with another metric; the medoids from which geodesic K-means starts stay those of its own."""
    config = run.config.copy_and_resolve_references()
    with config.unlocked():
        if metric == "uncertainty":
            config.vae.uncertainty = "std"
        else:
            config.graph.output_metric = metric
    other = Run(run.workdir, config)
    if metric == "uncertainty":
        fit_uncertainty(other)
    return other


def joint_codes(name: str, run: Run) -> Coded:
    """Codes of a jointly trained model, from its encoder.

    `vqvae` trains everything for the whole budget, `vqvae_double` for twice as many steps; those that fine-tune the
    decoder like a post-hoc method, for the steps of the autoencoder. `geodesic_joint` starts from the autoencoder and
    the refined geodesic codebook and trains everything for the steps of the fine-tuning.
    """
    config = run.config
    whole, first = vqvae.num_steps(config), vqvae.autoencoder_steps(config)
    if name == "geodesic_joint":
        section = config.codebook
        steps, learning_rate = section.finetune_steps, section.finetune_learning_rate
        directory, start = run.workdir / name, _refined_start(run)
        model, fit = vqvae.fit_vqvae(run, directory, steps=steps, learning_rate=learning_rate, start=start)
        spent = first + fit.last_step
    else:
        steps = {"vqvae": whole, "vqvae_double": 2 * whole}.get(name, first)
        model, fit = vqvae.fit_vqvae(run, run.workdir / f"vqvae_{steps}", steps=steps)
        spent = fit.last_step
    codes = {split: vqvae.encode(model, getattr(run.dataset, split).images) for split in SPLITS}
    return Coded(Autoencoder(model.params, model.arch), vqvae.vectors(model), codes, spent)


def _refined_start(run: Run) -> Any:
    """Parameters of a joint model that starts from the autoencoder and the refined geodesic codebook."""
    nodes = nodes_of(run, run.clusters)
    quantizer, _ = methods.fit("geodesic_refined", nodes, run.config.codebook.num_clusters, seed=run.config.seed)
    mean_metric = jnp.asarray(np.mean(np.asarray(nodes.metrics), axis=0))
    return models.from_vae(run.autoencoder.params, jnp.asarray(quantizer.vectors), mean_metric)
