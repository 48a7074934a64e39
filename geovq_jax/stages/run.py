"""An opened run: typed, cached access to everything in a work directory.

Stages, sections of the report, comparisons, the explorer and notebooks take a `Run`. Every file is opened at most once
per `Run`, when it is first needed. Only this module and the stages that write use names of files.
"""

import json
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Float, Int, Int32, Integer, UInt8
from ml_collections import ConfigDict

from geovq_jax import data
from geovq_jax.config import read_config
from geovq_jax.geometry import bernoulli_map
from geovq_jax.geometry.metric import as_pytree, with_output_metric
from geovq_jax.models import classifier as classifiers
from geovq_jax.models import gpt, vae
from geovq_jax.models.sampling import balanced_labels, draw
from geovq_jax.quantization import assignment, methods
from geovq_jax.quantization.code_tables import fit_tables
from geovq_jax.quantization.codebook import Codebook, codebook_of, lookup, parameters_hash
from geovq_jax.stages import records
from geovq_jax.training import checkpoint
from geovq_jax.workdir import load_npz

T = TypeVar("T")


class Run:
    """A work directory and its configuration, opened; see the module's docstring.

    Attributes are computed on first access and kept; `forget` drops what the files of a stage have replaced.
    """

    def __init__(self, workdir: Path, config: ConfigDict):
        self.workdir, self.config = workdir, config
        self._kept: dict[tuple[str, ...], Any] = {}

    def _repr_html_(self) -> str:
        """What a notebook shows for the run: its headline figures and samples."""
        path = self.workdir / "report" / "summary.html"
        return path.read_text() if path.is_file() else "<p>No report yet: python -m geovq_jax.evaluate writes it.</p>"

    def forget(self) -> None:
        """Drop everything but the data set, which no stage writes."""
        self._kept.clear()
        for name in [name for name in self.__dict__ if name not in ("workdir", "config", "_kept", "dataset")]:
            del self.__dict__[name]

    def _once(self, key: tuple[str, ...], load: Callable[[], T]) -> T:
        if key not in self._kept:
            self._kept[key] = load()
        return self._kept[key]

    @cached_property
    def dataset(self) -> data.Dataset:
        """The experiment's images."""
        section = self.config.data
        return data.load(
            section.name,
            data_dir=section.dir or None,
            seed=self.config.seed,
            **{name: section[name] or None for name in ("max_train", "max_valid", "max_test")},
        )

    def images(self, split: str) -> Float[np.ndarray, "n H W C"]:
        """Images of a split, float32 in [0, 1]."""
        return self._once(("images", split), lambda: np.asarray(data.to_float(getattr(self.dataset, split).images)))

    def latents(self, split: str) -> records.Latents:
        """Latents of a split."""
        path = self.workdir / "latents" / f"{split}.npz"
        return self._once(("latents", split), lambda: records.read_record(path, records.Latents, stage="train_vae"))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the images that the latents were made from."""
        height, width, channels = (int(side) for side in self.latents("train").image_shape)
        return height, width, channels

    def _restore(self, folder: str, init: Callable[..., Any]) -> Any:
        """Best parameters of a training, of the shapes that `init` gives."""
        return checkpoint.load(self.workdir / folder / "best", jax.eval_shape(init, jax.random.key(0)))

    def _load_autoencoder(self, folder: str) -> records.Autoencoder:
        known = (self.workdir / "latents" / "train.npz").is_file()
        shape = self.image_shape if known else self.dataset.train.images.shape[1:]
        arch = records.vae_architecture(self.config.vae, shape)
        return records.Autoencoder(self._restore(folder, partial(vae.init, arch=arch)), arch)

    @cached_property
    def autoencoder(self) -> records.Autoencoder:
        """The trained VAE."""
        return self._load_autoencoder("vae")

    @cached_property
    def vae_hash(self) -> str:
        """Hash of the VAE's parameters, on which everything that is measured in its latent space depends."""
        return parameters_hash(self.autoencoder.params)

    @cached_property
    def decode_fn(self) -> jax.tree_util.Partial:
        """The VAE's decoder: one latent [d] or grid [h, w, d] -> image [H, W, C]."""
        return records.decoder_of(self.autoencoder)

    @cached_property
    def metric_fn(self) -> jax.tree_util.Partial:
        """The map whose pull-back metric is the run's: the decoder, followed by graph.output_metric."""
        kind = self.config.graph.output_metric
        if kind == "pixels":
            return self.decode_fn
        output_map = bernoulli_map if kind == "bernoulli" else records.features_of(self.classifier)
        return as_pytree(with_output_metric(self.decode_fn, output_map))

    @cached_property
    def tuned(self) -> records.Autoencoder:
        """The autoencoder whose decoder was fine-tuned on the codes."""
        return self._load_autoencoder("decoder")

    @cached_property
    def tuned_decode_fn(self) -> jax.tree_util.Partial:
        """The fine-tuned decoder, which reads code vectors."""
        return records.decoder_of(self.tuned)

    @property
    def method(self) -> str:
        """Name of the method that makes the codebook."""
        return methods.resolve(self.config.codebook.method, self.config.vae.kind)

    @property
    def distance(self) -> methods.Distance:
        """Distance of geodesic codes of vectors: codebook.distance, but that of the graph where it is Euclidean."""
        return "graph" if self.config.graph.weights == "euclidean" else self.config.codebook.distance

    @property
    def needs_metrics(self) -> bool:
        """Whether the graph, the method or the search reads the metric at every latent."""
        config = self.config
        searched = config.codes.search == "context" and config.vae.kind == "spatial"
        return config.graph.weights == "pullback" or methods.METHODS[self.method].on_metrics or searched

    def metrics(self, split: str) -> Float[np.ndarray, "..."] | None:
        """Metric at each latent of a split, [n, d, d] or [n, h, w, d, d]; None where nothing reads them."""
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
        """Code of each node of the graph, and its distance to the code in the unit of the assignment."""
        file = self._codebook_file
        return methods.Clusters(file["medoids"], file["node_labels"], file["node_distances"])

    @cached_property
    def quantizer(self) -> assignment.Quantizer:
        """The codebook with everything that choosing a code needs; ValueError for a codebook of another VAE."""
        book, file = self.codebook, self._codebook_file
        if book.settings["vae"] != self.vae_hash:
            raise ValueError(
                f"expected a codebook of the VAE {self.vae_hash[:12]}, got one of {str(book.settings['vae'])[:12]} in "
                f"{self.workdir / 'codebook.npz'}; rerun python -m geovq_jax.build_codebook"
            )
        method = str(book.settings["method"])
        spatial, distance = self.latents("train").mean.ndim == 4, book.settings["distance"]
        kind = methods.assignment_of(method, spatial=spatial, distance=distance)
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
    def prior(self) -> records.Prior:
        """The prior over the codes."""
        arch = records.prior_architecture(
            self.config.prior,
            self.codes("train").codes.shape[1:],
            num_codes=len(self.codebook.vectors),
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

    @property
    def training_records(self) -> list[dict[str, Any]]:
        """Figures of every evaluation during training, one dict per line of metrics.jsonl.

        Raises ValueError for a line that is not one.
        """
        path, found = self.workdir / "metrics.jsonl", []
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict) or not {"stage", "step"} <= record.keys():
                raise ValueError(
                    f"expected a JSON object with stage and step on line {number} of {path}, got {line[:60]!r}; "
                    "delete that line"
                )
            found.append(record)
        return found

    @property
    def environment(self) -> dict[str, Any]:
        """The content of config.json: versions, commit, platform and devices."""
        return json.loads((self.workdir / "config.json").read_text())

    def encode(self, images: UInt8[np.ndarray, "n H W C"] | Float[np.ndarray, "n H W C"]) -> Int32[np.ndarray, "n ..."]:
        """Codes of images, as the run encodes its own.

        Args:
            images: uint8, or float in [0, 1], of the shape of the run's images.

        Returns:
            Codes [n], or [n, h, w] of spatial latents.

        Raises:
            ValueError: images of another shape, or none.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape or not len(images):
            raise ValueError(f"expected images [n, {str(self.image_shape)[1:-1]}], got {images.shape}; resize them")
        latents = np.asarray(records.posterior(self.autoencoder, images).mean)
        codes = self.tokenize(latents)
        if self.config.codes.search == "none":
            return codes
        metrics = None
        if latents.ndim == 4:
            metrics = assignment.measure(self.decode_fn, latents, self.config.graph.context)
            metrics = metrics.reshape(*latents.shape, latents.shape[-1])
        pixels = np.asarray(data.to_float(images)) if images.dtype == np.uint8 else images
        vectors, effort = self.codebook.vectors, {name: self.config.codes[name] for name in ("sweeps", "rate_weight")}
        tables = None if self.seen_codes is None else fit_tables(self.seen_codes, len(vectors))
        return assignment.search(self.tuned_decode_fn, vectors, codes, pixels, metrics=metrics, tables=tables, **effort)

    @cached_property
    def seen_codes(self) -> Int[np.ndarray, "n ..."] | None:
        """Training codes that the decoder was trained on, which say what a code costs; None where nothing asks."""
        path = self.workdir / "decoder" / records.SEEN
        return load_npz(path, stage="decoder")["codes"] if self.config.codes.rate_weight else None

    def tokenize(self, latents: Float[np.ndarray, "n ..."]) -> Int32[np.ndarray, "n ..."]:
        """Codes of latents [n, d] or [n, h, w, d] without search."""
        effort = {"neighbours": self.config.codebook.neighbours, "context": self.config.graph.context}
        return assignment.assign(self.quantizer, latents, self.metric_fn, **effort).codes

    def decode(self, codes: Integer[np.ndarray, "n ..."]) -> Float[np.ndarray, "n H W C"]:
        """Images in [0, 1] of codes [n] or [n, h, w], by the fine-tuned decoder.

        Raises:
            ValueError: a code outside [0, K).
        """
        return records.decode_images(self.tuned_decode_fn, lookup(self.codebook, codes))

    def sample(self, num_samples: int, *, class_id: int = -1, seed: int = 0) -> records.Drawn:
        """Draws codes from the prior under the run's sampling settings, and decodes them.

        Args:
            num_samples: images to draw.
            class_id: class to draw; -1 for every class in equal numbers.
            seed: of the draws.

        Returns:
            Drawn, sorted by class.

        Raises:
            ValueError: a class that the prior was not trained on.
        """
        params, arch = self.prior
        if not -1 <= class_id < arch.num_classes:
            raise ValueError(
                f"expected class_id from -1 to {arch.num_classes - 1}, got {class_id}; -1 draws every class"
            )
        labels = balanced_labels(num_samples, class_id, arch.num_classes)
        codes, log_p = draw(jax.random.key(seed), params, arch, labels, dict(self.config.sample))
        codes = codes.reshape(len(labels), *self.codes("train").codes.shape[1:])
        return records.Drawn(codes, self.decode(codes), labels, log_p)


def load_run(workdir: str | Path) -> Run:
    """Opens a finished run; see `geovq_jax.load_run`."""
    workdir = Path(workdir).absolute()
    return Run(workdir, read_config(workdir / "config.json"))
