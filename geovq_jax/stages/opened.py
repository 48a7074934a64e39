"""Images, latents and autoencoders of an opened work directory: everything that does not depend on the codebook."""

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from geovq_jax import data
from geovq_jax.quantization.codebook import parameters_hash
from geovq_jax.stages import records
from geovq_jax.stages.external import External, decoded, fingerprint, load
from geovq_jax.training import checkpoint

T = TypeVar("T")


class Opened:
    """A work directory and its configuration, opened.

    Attributes are computed on first access and cached; `forget` drops the cache after a stage has replaced files.
    """

    def __init__(self, workdir: Path, config: ConfigDict):
        self.workdir, self.config = workdir, config
        self._kept: dict[tuple[str, ...], Any] = {}

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
        section, seed = self.config.data, self.config.seed
        limits = section.max_train or None, section.max_valid or None, section.max_test or None
        if section.name == "decoded":
            return decoded(load(self.config.vae.module), limits, seed)
        return data.load(
            section.name,
            data_dir=section.dir or None,
            seed=seed,
            image_size=tuple(section.image_size) or None,
            crop=section.crop,
            **dict(zip(("max_train", "max_valid", "max_test"), limits, strict=True)),
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
        """(height, width, channels) of the encoded images."""
        height, width, channels = (int(side) for side in self.latents("train").image_shape)
        return height, width, channels

    def _restore(self, folder: str, init: Callable[..., Any]) -> Any:
        """Best parameters of a training, of the shapes that `init` gives."""
        return checkpoint.load(self.workdir / folder / "best", jax.eval_shape(init, jax.random.key(0)))

    def _load_autoencoder(self, folder: str) -> records.Autoencoder:
        known = (self.workdir / "latents" / "train.npz").is_file()
        shape = self.image_shape if known else self.dataset.train.images.shape[1:]
        return records.load_autoencoder(self.config.vae, shape, self.workdir / folder)

    @cached_property
    def autoencoder(self) -> records.Autoencoder:
        """The trained VAE, or the user's autoencoder."""
        return self._load_autoencoder("vae")

    @cached_property
    def vae_hash(self) -> str:
        """Hash of the autoencoder, on which every measurement in its latent space depends."""
        params, arch = self.autoencoder
        return fingerprint(arch, self.workdir / "vae") if isinstance(arch, External) else parameters_hash(params)

    @cached_property
    def decode_fn(self) -> jax.tree_util.Partial:
        """The VAE's decoder: one latent [d] or grid [h, w, d] -> image [H, W, C]."""
        return records.decoder_of(self.autoencoder)

    @cached_property
    def tuned(self) -> records.Autoencoder:
        """The autoencoder whose decoder was fine-tuned on the codes."""
        return self._load_autoencoder("decoder")

    @cached_property
    def tuned_decode_fn(self) -> jax.tree_util.Partial:
        """The fine-tuned decoder, which reads code vectors."""
        return records.decoder_of(self.tuned)

    @cached_property
    def searched_decoders(self) -> list[records.Autoencoder]:
        """The autoencoders under whose decoders codes are searched in turn, the fine-tuned one last."""
        searched = self.config.codes.search != "none" and self.config.codebook.finetune_decoder
        if not searched or not self.autoencoder.params:
            return [self.tuned]
        between = [self._load_autoencoder(f"decoder/part{part}") for part in range(self.config.codes.searches - 1)]
        return [self.autoencoder, *between, self.tuned]

    @property
    def training_records(self) -> list[dict[str, Any]]:
        """Metrics of every evaluation during training; empty where nothing was trained."""
        path = self.workdir / "metrics.jsonl"
        return records.read_log(path) if path.is_file() else []

    @property
    def environment(self) -> dict[str, Any]:
        """The content of config.json: versions, commit, platform and devices."""
        return json.loads((self.workdir / "config.json").read_text())
