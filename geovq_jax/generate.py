"""Sample codes from the trained prior and decode them.

    geovq generate --workdir=runs/mnist5k --num_samples=100 --temperature=0.9 --class_id=3

Writes samples.npz (codes, images, labels, log-probabilities), samples.png (one row per class) and completions.png
(validation images of which the upper half of the codes is given, each completed several times) into the work directory.
Its config.json holds all other settings, its codebook the height and width of the grid of codes.
"""

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
    flags.DEFINE_integer("num_completions", None, "Completions per given upper half, e.g. --num_completions=6."),
    flags.DEFINE_integer("seed", None, "Seed of the samples, e.g. --seed=1."),
    flags.DEFINE_integer("class_id", None, "Class to sample; -1 for every class, e.g. --class_id=3."),
)


def set_sampling(config: ConfigDict) -> None:
    """Put the flags that were given into the configuration's section `sample`."""
    for flag in _FLAGS:
        if flag.value is not None:
            config.sample[flag.name] = flag.value


if __name__ == "__main__":
    cli.main(pipeline.entry("samples"), documentation=__doc__, adjust=set_sampling)
