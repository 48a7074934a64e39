"""Sample codes from the trained prior and decode them.

    geovq generate --workdir=runs/mnist5k --num_samples=100 --temperature=0.9 --class_id=3

Writes samples.npz (codes, images, labels, log-probabilities, settings), samples.png (one row per class) and
completions.png (validation images of which the upper half of the codes is given, each completed several times) into the
work directory. Flags are for this call alone; config.json holds all other settings.

    geovq generate --workdir=runs/mnist5k --complete=7.png --mask=hole.png

completes images of your own where the mask is white; black places keep their codes.
"""

from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from geovq_jax import cli, pipeline

_FLAGS = (
    flags.DEFINE_integer("num_samples", None, "Images to sample, e.g. --num_samples=100."),
    flags.DEFINE_float("temperature", None, "Divisor of logits; 0 takes the most likely code, e.g. --temperature=0.9."),
    flags.DEFINE_integer("top_k", None, "Sample among the k most likely codes; 0 for all, e.g. --top_k=50."),
    flags.DEFINE_float("top_p", None, "Sample among the most likely codes of total probability p, e.g. --top_p=0.95."),
    flags.DEFINE_float("min_p", None, "Sample codes with at least p times the largest probability, e.g. --min_p=0.05."),
    flags.DEFINE_float("guidance", None, "Scale of classifier-free guidance; 1 for none, e.g. --guidance=1.5."),
    flags.DEFINE_integer("num_completions", None, "Completions per image, e.g. --num_completions=6."),
    flags.DEFINE_integer("seed", None, "Seed of the samples, e.g. --seed=1."),
)
_CLASS = flags.DEFINE_string("class_id", None, "Class to sample; -1 for every class, none for no class, e.g. 3.")
_COMPLETE = flags.DEFINE_string("complete", None, "Image, folder or npz file to complete, e.g. --complete=7.png.")
_MASK = flags.DEFINE_string(
    "mask", None, "Places to draw anew, a black and white image or a boolean .npy array, e.g. --mask=hole.png."
)


def _settings() -> dict[str, Any]:
    """Settings of section `sample` that this call has flags for."""
    found = {flag.name: flag.value for flag in _FLAGS if flag.value is not None}
    text = _CLASS.value
    if text is None:
        return found
    if text != "none" and not text.removeprefix("-").isdecimal():
        raise ValueError(f"expected --class_id to be a class, -1 or none, got {text!r}; write e.g. --class_id=3")
    return found | {"class_id": -2 if text == "none" else int(text)}


def _check(config: ConfigDict) -> None:
    """Refuse the flags of this call before the work directory is touched."""
    pipeline.sampling_config(config, _settings())
    if (_COMPLETE.value is None) != (_MASK.value is None):
        raise ValueError("expected --complete and --mask together, got one of them; give both")


def generate(workdir: Path, config: ConfigDict) -> None:
    """See `pipeline.generate`; images to complete become codes by the run."""
    given, images, mask = None, _COMPLETE.value, _MASK.value
    if images is not None and mask is not None:
        from geovq_jax import codec

        given = codec.to_complete(workdir, images, Path(mask))
    pipeline.generate(workdir, config, _settings(), given)


if __name__ == "__main__":
    cli.main(generate, documentation=__doc__, check=_check)
