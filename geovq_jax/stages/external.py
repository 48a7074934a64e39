"""An external autoencoder, defined by a Python file or an importable module.

The module offers `decode`, a function of one latent [d] or [h, w, d] in JAX that returns an image [H, W, C] with values
in [0, 1], and either of

- `encode`: a NumPy array of images [n, H, W, C], float32 in [0, 1] -> latents [n, d] or [n, h, w, d] of any framework;
- `latents`: an array with the latent of every image of the data set, in the order of its source. `data.name=decoded`
  stands for the images that the module decodes from them, with its `labels` if it offers any.

With `params`, a pytree of arrays, the decoder is `decode(params, z)`, and can be fine-tuned.

Since weights may lie in files that only the module knows, a work directory keeps some latents with their decoded
images, and refuses a module that decodes them otherwise.
"""

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from geovq_jax import data
from geovq_jax.data.datasets import DOWNLOADED
from geovq_jax.geometry import decode_all
from geovq_jax.workdir import hash_arrays, load_npz, save_npz

PROBE = "probe.npz"  # in `vae/`
PROBES = 8  # latents
TOLERANCE = 1e-3  # of a pixel in [0, 1]: libraries and devices round differently


@dataclass(frozen=True, eq=False)
class External:
    """What a module offers; hashed by identity, so that it can be a static argument. `name` is vae.module."""

    name: str
    decode: Callable[..., Any] = field(repr=False)
    encode: Callable[..., Any] | None = field(repr=False)
    latents: Float[np.ndarray, "n ..."] | None = field(repr=False)
    params: Any = field(repr=False)
    labels: Any = field(repr=False)

    def __reduce__(self) -> tuple[Callable[[str], "External"], tuple[str]]:
        """Other processes load the module themselves, since they cannot import a function of its file by name."""
        return load, (self.name,)


@functools.cache
def load(name: str) -> External:
    """The autoencoder that a file or module offers, loaded once per process; ValueError names what it lacks."""
    try:
        module = _import(name)
    except Exception as error:  # whatever the module raises
        raise ValueError(
            f"expected vae.module={name} to load, got {_reason(error)}; import it in Python first"
        ) from error
    decode, encode = (getattr(module, part, None) for part in ("decode", "encode"))
    latents, params = (getattr(module, part, None) for part in ("latents", "params"))
    if not callable(decode):
        raise ValueError(f"expected a function decode in vae.module={name}, got {_kind(decode)}; define decode(z)")
    if (latents is None) == (encode is None):
        raise ValueError(
            f"expected either encode(images) or an array latents in vae.module={name}, got "
            f"{'neither' if latents is None else 'both'}; define one"
        )
    if encode is not None and not callable(encode):
        raise ValueError(f"expected a function encode in vae.module={name}, got {_kind(encode)}; define encode(images)")
    found = None if latents is None else _checked(latents, f"latents of {name}")
    return External(name, decode, encode, found, params, getattr(module, "labels", None))


def _kind(value: Any) -> str:
    return "none" if value is None else type(value).__name__


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


def _import(name: str) -> ModuleType:
    path = Path(name).expanduser()
    if path.suffix != ".py":
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(f"_external_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.absolute().parent))  # what lies beside the file can be imported, as by a script
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _checked(latents: Any, what: str) -> Float[np.ndarray, "n ..."]:
    found = np.asarray(latents, np.float32)
    if found.ndim not in (2, 4) or not len(found):
        raise ValueError(f"expected {what} of shape [n, d] or [n, h, w, d], got {found.shape}; add or drop axes")
    if not np.isfinite(found).all():
        raise ValueError(f"expected finite {what}, got NaN or infinity; check the encoder")
    return found


def encode(own: External, images: Float[np.ndarray, "n H W C"]) -> Float[np.ndarray, "n ..."]:
    """Latents float32 of a batch of images in [0, 1]; ValueError if they have another shape or are not finite."""
    if own.encode is None:
        raise ValueError(f"expected encode(images) in vae.module={own.name}, found only latents; define it")
    try:
        latents = own.encode(np.asarray(images))
    except Exception as error:  # whatever the encoder raises
        raise ValueError(
            f"expected encode of vae.module={own.name} to take images {list(images.shape)}, got {_reason(error)}; "
            "correct it"
        ) from error
    found = _checked(latents, f"latents from encode of {own.name}")
    if len(found) != len(images):
        raise ValueError(f"expected {len(images)} latents from encode of {own.name}, got {len(found)}; keep every row")
    return found


def decoded(own: External, limits: tuple[int | None, int | None, int | None], seed: int) -> data.Dataset:
    """Images of 16 bits that the module decodes from its latents; ValueError without latents, or for bad labels."""
    if own.latents is None:
        raise ValueError(f"expected latents in vae.module={own.name} for data.name=decoded, got none; define them")
    labels = np.zeros(len(own.latents), np.int32) if own.labels is None else np.asarray(own.labels)
    if labels.shape != own.latents.shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(
            f"expected labels [{len(own.latents)}], integers from 0, in vae.module={own.name}, got {labels.dtype} "
            f"{labels.shape}; give one per latent"
        )
    images = decode_all(decoder_of(own), own.latents)
    if images.ndim != 4:
        raise ValueError(f"expected decode of vae.module={own.name} to return images [H, W, C], got {images.shape[1:]}")
    deep = np.rint(np.clip(images, 0.0, 1.0) * 65535).astype(np.uint16)
    examples = data.Examples(deep, labels.astype(np.int32))
    return data.split_examples("decoded", int(labels.max()) + 1, examples, own.name, limits, seed)


def latents_of(own: External, split: data.Split, rows: slice) -> Float[np.ndarray, "n ..."]:
    """Latents of rows of a split: looked up by their place in the source, or encoded."""
    if own.latents is None:
        return encode(own, np.asarray(data.to_float(split.images[rows])))
    return own.latents[split.index[rows]]


def check(own: External, dataset: data.Dataset) -> tuple[int, ...]:
    """Shape of one latent; ValueError where latents are too few, or decode gives no images of the data set's shape."""
    if own.latents is not None:
        total = 1 + max(int(part.index.max()) for part in (dataset.train, dataset.valid, dataset.test))
        if dataset.name in DOWNLOADED:
            raise ValueError(
                f"expected encode(images) in vae.module={own.name}, got latents; {dataset.name} numbers its training "
                "and test images apart"
            )
        if len(own.latents) < total:
            raise ValueError(
                f"expected a latent of each image of {dataset.name}, at least {total}, got {len(own.latents)} in "
                f"vae.module={own.name}; encode all images in the order of the source"
            )
    latent, image = latents_of(own, dataset.train, slice(1))[0], dataset.train.images.shape[1:]
    got = decode_all(decoder_of(own), latent[None]).shape[1:]
    if got != image:
        raise ValueError(
            f"expected decode of vae.module={own.name} to return images {list(image)}, got {list(got)}; put the "
            "channels last, or set --config.data.image_size"
        )
    return latent.shape


def decoder_of(own: External) -> jax.tree_util.Partial:
    """The map z -> x of one latent with the module's own parameters."""
    return jax.tree_util.Partial(own.decode, *(() if own.params is None else (own.params,)))


def adopt(own: External, dataset: data.Dataset, directory: Path) -> str:
    """Keep some latents and their decoded images in `directory`, after `check`."""
    check(own, dataset)
    latents = latents_of(own, dataset.valid, slice(PROBES))
    images = decode_all(decoder_of(own), latents)
    save_npz(directory / PROBE, latents=latents, images=images)
    truth = np.asarray(data.to_float(dataset.valid.images[:PROBES]))
    error = float(np.mean(np.square(images - truth)))
    shape = " x ".join(map(str, latents.shape[1:]))
    return f"{own.name}: latents {shape}, PSNR of {len(latents)} images {-10 * np.log10(max(error, 1e-12)):.2f} dB"


def fingerprint(own: External, directory: Path) -> str:
    """Hash of the decoder as it was adopted; ValueError if it decodes otherwise now."""
    probe = load_npz(directory / PROBE, stage="train_vae")
    difference = np.abs(decode_all(decoder_of(own), probe["latents"]) - probe["images"]).max()
    if difference > TOLERANCE:
        raise ValueError(
            f"expected vae.module={own.name} to decode as it did when this run began, got pixels that differ by "
            f"{difference:.2g}; restore its weights, or remove {directory} and run anew"
        )
    return hash_arrays(probe)
