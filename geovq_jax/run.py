"""Run every stage of an experiment; finished stages are skipped, an interrupted one continues.

geovq run --config=mnist5k
geovq run --workdir=runs/mnist5k --verify
"""

from absl import flags

from geovq_jax import cli, pipeline

flags.DEFINE_bool(
    "verify",
    False,
    "Recompute the hashes of a finished run and name each file that differs, e.g. --workdir=runs/mnist5k --verify.",
)

if __name__ == "__main__":
    if cli.is_set("verify"):
        cli.main_without_config(pipeline.verify, documentation=__doc__)
    else:
        cli.main(pipeline.run_all, documentation=__doc__)
