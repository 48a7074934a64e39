"""An opened run: typed, cached access to everything in a work directory.

Stages, sections of the report, comparisons, the explorer and notebooks take a `Run`. Every file is opened at most once
per `Run`, when it is first needed. Only this module, `opened` and the stages that write files know their names.
"""

import json
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, Int32, Integer, UInt

from geovq_jax import data
from geovq_jax.config import num_neighbours, read_config
from geovq_jax.data.datasets import CLASS_NAMES
from geovq_jax.data.folder import list_images
from geovq_jax.geometry import bernoulli_map
from geovq_jax.geometry.checks import check_ids
from geovq_jax.geometry.metric import as_pytree, with_output_metric
from geovq_jax.models import classifier as classifiers
from geovq_jax.models import gpt
from geovq_jax.models.sampling import EVERY_CLASS, NO_CLASS, balanced_labels, draw
from geovq_jax.models.uncertainty import Precision
from geovq_jax.quantization import assignment, methods
from geovq_jax.quantization.code_tables import fit_tables
from geovq_jax.quantization.codebook import Codebook, codebook_of, lookup
from geovq_jax.quantization.rates import Rate, rate_of_prior, rate_of_tables
from geovq_jax.stages import records, tensors
from geovq_jax.stages.opened import Opened
from geovq_jax.training import checkpoint
from geovq_jax.workdir import load_npz

CHUNK = 4096  # images encoded at once, as in the stages, so that the codes are identical


class Run(Opened):
    """A work directory and its configuration, opened; see the module's docstring."""

    def _repr_html_(self) -> str:
        """HTML that a notebook shows for the run: headline figures and samples."""
        path = self.workdir / "report" / "summary.html"
        return path.read_text() if path.is_file() else "<p>No report yet: python -m geovq_jax.evaluate writes it.</p>"

    @cached_property
    def metric_fn(self) -> jax.tree_util.Partial:
        """The map whose pull-back metric the run uses: the decoder with vae.uncertainty and graph.output_metric."""
        kind = self.config.graph.output_metric
        if self.config.vae.uncertainty == "std":
            arrays = load_npz(self.workdir / "vae" / "uncertainty.npz", stage="train_vae")
            return records.mean_and_deviation(self.decode_fn, Precision(**arrays))
        if kind == "pixels":
            return self.decode_fn
        output_map = bernoulli_map if kind == "bernoulli" else records.features_of(self.classifier)
        return as_pytree(with_output_metric(self.decode_fn, output_map))

    @property
    def metric_name(self) -> str:
        """The run's metric in a word: graph.output_metric, or uncertainty where the decoder's is part of it."""
        return "uncertainty" if self.config.vae.uncertainty == "std" else self.config.graph.output_metric

    @property
    def method(self) -> str:
        """Name of the codebook's method."""
        return methods.resolve(self.config.codebook.method, spatial=self.spatial)

    @property
    def spatial(self) -> bool:
        """Whether an image has a grid of latents, not a single vector."""
        return self.latents("train").mean.ndim == 4

    @property
    def num_neighbours(self) -> int:
        """Neighbours per node of the graph."""
        return num_neighbours(self.config.graph.k, self.latents("train").mean.shape[-1], spatial=self.spatial)

    @property
    def distance(self) -> methods.Distance:
        """Distance of geodesic codes of vectors."""
        return tensors.distance_of(self.config)

    @property
    def needs_metrics(self) -> bool:
        """Whether the graph or the method reads the metric at every latent."""
        return tensors.are_read(self.config, self.latents("train").mean.shape[1:])

    @property
    def wide(self) -> bool:
        """Whether edges are measured by the decoder, since the metrics of all nodes would take more room."""
        return tensors.is_wide(self.config, self.latents("train").mean.shape[1:])

    def metrics_at(self, nodes: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m d d"] | None:
        """Metric at some nodes of the graph; None where its edges are Euclidean."""
        if self.graph.metrics is not None or self.config.graph.weights == "euclidean":
            return None if self.graph.metrics is None else self.graph.metrics[nodes]
        return assignment.measure(self.metric_fn, self.graph.points[nodes])

    def metrics(self, split: str) -> Float[np.ndarray, "..."] | None:
        """Metric at each latent of a split, [n, d, d] or [n, h, w, d, d]; None where nothing needs them."""
        if not self.needs_metrics:
            return None

        def load() -> np.ndarray:
            found = load_npz(self.workdir / "metrics" / f"{split}.npz", stage="build_codebook")["metrics"]
            shape = self.latents(split).mean.shape
            return found.reshape(*shape, shape[-1])

        return self._once(("metrics", split), load)

    @cached_property
    def graph(self) -> records.Graph:
        """The graph of the training latents."""
        return records.read_graph(self.workdir / "graph.npz")

    @property
    def graph_latents(self) -> Float[np.ndarray, "m ..."]:
        """Latents [m, d] or [m, h, w, d] of the images in the graph."""
        return self.latents("train").mean[self.graph.rows]

    @property
    def graph_labels(self) -> Int[np.ndarray, " n"]:
        """Class of each node of the graph: that of its image."""
        labels = self.latents("train").label[self.graph.rows]
        return np.repeat(labels, len(self.graph.points) // len(labels))

    @cached_property
    def _codebook_file(self) -> dict[str, np.ndarray]:
        return load_npz(self.workdir / "codebook.npz", stage="build_codebook")

    @cached_property
    def codebook(self) -> Codebook:
        """The code vectors and what is known of their clusters."""
        return codebook_of(self._codebook_file, self.workdir / "codebook.npz")

    @property
    def clusters(self) -> methods.Clusters:
        """Code of each node of the graph, and the distance to its code vector in the unit of the assignment."""
        file = self._codebook_file
        return methods.Clusters(file["medoids"], file["node_labels"], file["node_distances"])

    @cached_property
    def quantizer(self) -> assignment.Quantizer:
        """The codebook with everything needed to assign codes; ValueError for a codebook of another VAE."""
        book, file = self.codebook, self._codebook_file
        if book.settings["vae"] != self.vae_hash:
            raise ValueError(
                f"expected a codebook of the VAE {self.vae_hash[:12]}, got one of {str(book.settings['vae'])[:12]} in "
                f"{self.workdir / 'codebook.npz'}; rerun python -m geovq_jax.build_codebook"
            )
        method = str(book.settings["method"])
        kind = methods.assignment_of(method, spatial=self.spatial, distance=book.settings["distance"])
        tokenizer = None
        if kind == "graph":
            _, labels, distances = self.clusters
            tokenizer = assignment.tokenizer_of(self.graph.points, self.graph.metrics, labels, distances)
        return assignment.Quantizer(method, kind, book.vectors, file.get("transform"), tokenizer)

    def codes(self, split: str) -> records.Codes:
        """Codes of a split."""
        path = self.workdir / "codes" / f"{split}.npz"
        return self._once(("codes", split), lambda: records.read_record(path, records.Codes, stage="build_codebook"))

    @property
    def num_classes(self) -> int:
        """Number of classes among the training labels."""
        return int(self.codes("train").label.max()) + 1

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Words of Fashion-MNIST and CIFAR-10, sub-folders of a folder; digits elsewhere."""
        name = self.config.data.name
        if name.startswith("folder:"):
            return tuple(list_images(self.dataset.source)[0])
        return CLASS_NAMES[name] if name in CLASS_NAMES else tuple(map(str, range(self.num_classes)))

    @cached_property
    def prior(self) -> records.Prior:
        """The prior over the codes."""
        arch = records.prior_architecture(
            self.config.prior,
            self.codes("train").codes.shape[1:],
            num_codes=self.config.codebook.num_clusters,
            num_classes=self.num_classes,
        )
        return records.Prior(self._restore("prior", partial(gpt.init, arch=arch)), arch)

    @property
    def has_prior(self) -> bool:
        """Whether a prior has been trained."""
        return checkpoint.exists(self.workdir / "prior" / "best")

    @cached_property
    def classifier(self) -> records.Classifier:
        """The run's classifier."""
        arch = records.classifier_architecture(self.config.classifier, self.dataset)
        return records.Classifier(self._restore("classifier", partial(classifiers.init, arch=arch)), arch)

    @cached_property
    def samples(self) -> dict[str, np.ndarray]:
        """Arrays of the drawn samples: codes, images, labels, log_probabilities, settings, completions."""
        return load_npz(self.workdir / "samples.npz", stage="generate")

    @cached_property
    def scores(self) -> dict[str, Any]:
        """Scores of the samples; empty if there were too few test images."""
        return json.loads((self.workdir / "scores.json").read_text())

    def encode(self, images: UInt[np.ndarray, "n H W C"] | Float[np.ndarray, "n H W C"]) -> Int32[np.ndarray, "n ..."]:
        """Codes of images, as the run encodes its own.

        Args:
            images: uint8, uint16, or floats in [0, 1], of the shape of the run's images.

        Returns:
            Codes [n], or [n, h, w] of spatial latents.

        Raises:
            ValueError: images of another shape, or none.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape or not len(images):
            raise ValueError(f"expected images [n, {str(self.image_shape)[1:-1]}], got {images.shape}; resize them")
        return np.concatenate([self._encode(images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)])

    def _encode(self, images: np.ndarray) -> np.ndarray:
        latents, config = np.asarray(records.posterior(self.autoencoder, images).mean), self.config
        codes = self._tokenize(latents)
        if config.codes.search == "none":
            return codes
        pixels = np.asarray(data.to_float(images))
        effort = {name: config.codes[name] for name in ("sweeps", "rate_weight")}
        for decoder, rate in zip(self.searched_decoders, self.rates, strict=True):
            decode_fn = records.decoder_of(decoder)
            codes = assignment.search(decode_fn, self.codebook.vectors, codes, pixels, rate=rate, **effort)
        return codes

    @cached_property
    def seen_codes(self) -> Sequence[Int[np.ndarray, "n ..."] | None]:
        """Of each search the training codes from which code lengths are estimated; None if not needed."""
        if not self.config.codes.rate_weight:
            return [None] * len(self.searched_decoders)
        return list(load_npz(self.workdir / "decoder" / records.SEEN, stage="decoder")["codes"])

    @cached_property
    def rates(self) -> list[Rate | None]:
        """Code lengths of each search, of the last one see codes.rate; None if not needed."""
        seen, num_codes = self.seen_codes, len(self.codebook.vectors)
        rates = [None if codes is None else rate_of_tables(fit_tables(codes, num_codes)) for codes in seen]
        if seen[-1] is not None and self.config.codes.rate == "prior":
            arch = records.prior_architecture(self.config.prior, seen[-1].shape[1:], num_codes=num_codes, num_classes=0)
            rates[-1] = rate_of_prior(self._restore("codes/rate", partial(gpt.init, arch=arch)), arch)
        return rates

    def tokenize(self, latents: Float[np.ndarray, "n ..."]) -> Int32[np.ndarray, "n ..."]:
        """Codes of latents [n, d] or [n, h, w, d] without search; ValueError for latents of another shape."""
        shape = self.latents("train").mean.shape[1:]
        if latents.shape[1:] != shape or not len(latents):
            raise ValueError(
                f"expected latents [n, {str(shape)[1:-1]}], got {latents.shape}; encode images by this run"
            )
        parts = (latents[start : start + CHUNK] for start in range(0, len(latents), CHUNK))
        return np.concatenate([self._tokenize(part) for part in parts])

    def _tokenize(self, latents: np.ndarray) -> np.ndarray:
        neighbours, context, metrics = self.config.codebook.neighbours, self.config.graph.context, None
        if self.needs_metrics and self.quantizer.assignment in ("local", "graph"):
            found = assignment.measure(self.metric_fn, latents, context)
            metrics = found.reshape(*latents.shape, latents.shape[-1])
        return assignment.assign(
            self.quantizer, latents, self.metric_fn, metrics=metrics, neighbours=neighbours, context=context
        ).codes

    def log_prob(
        self, codes: Integer[np.ndarray, "n ..."], labels: Integer[np.ndarray, " n"] | None = None
    ) -> Float[np.ndarray, " n"]:
        """Log probability in nats of the codes [n] or [n, h, w] of each image under the prior.

        Args:
            codes: codes of images.
            labels: class of each image; None for the unconditional prior.

        Raises:
            ValueError: a code outside [0, K), or a class that the prior was not trained on.
        """
        params, arch = self.prior
        check_ids("codes", codes, arch.num_codes, "...")
        if labels is not None:
            check_ids("labels", labels, arch.num_classes, f"{len(codes)}")
        return records.log_probabilities(params, arch, codes, labels).sum(axis=1)

    def decode(self, codes: Integer[np.ndarray, "n ..."]) -> Float[np.ndarray, "n H W C"]:
        """Images in [0, 1] of codes [n] or [n, h, w], by the fine-tuned decoder.

        Raises:
            ValueError: a code outside [0, K).
        """
        return records.decode_images(self.tuned_decode_fn, lookup(self.codebook, codes))

    def sample(self, num_samples: int, *, class_id: int | None = EVERY_CLASS, seed: int = 0) -> records.Drawn:
        """Draws codes from the prior under the run's sampling settings, and decodes them.

        Args:
            num_samples: images to draw.
            class_id: class to draw; -1 for every class in equal numbers, None for samples without a class.
            seed: of the draws.

        Returns:
            Drawn, sorted by class.

        Raises:
            ValueError: a class that the prior was not trained on.
        """
        codes, labels, log_p = self.sample_codes(num_samples, class_id=class_id, seed=seed)
        return records.Drawn(codes, self.decode(codes), labels, log_p)

    def sample_codes(
        self, num_samples: int, *, class_id: int | None = EVERY_CLASS, seed: int = 0
    ) -> tuple[Int[np.ndarray, "n ..."], Int[np.ndarray, " n"], Float[np.ndarray, "n t"]]:
        """As `sample`, without images: codes, classes, and log probability of each code in nats."""
        params, arch = self.prior
        if class_id is not None and not EVERY_CLASS <= class_id < arch.num_classes:
            raise ValueError(
                f"expected class_id from -1 to {arch.num_classes - 1}, got {class_id}; -1 draws every class"
            )
        labels = balanced_labels(num_samples, NO_CLASS if class_id is None else class_id, arch.num_classes)
        codes, log_p = draw(jax.random.key(seed), params, arch, labels, dict(self.config.sample))
        return codes.reshape(len(labels), *self.codes("train").codes.shape[1:]), labels, log_p


def load_run(workdir: str | Path) -> Run:
    """Opens a finished run; see `geovq_jax.load_run`."""
    workdir = Path(workdir).absolute()
    return Run(workdir, read_config(workdir / "config.json"))
