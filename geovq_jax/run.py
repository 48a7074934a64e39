"""Run every stage of an experiment; finished stages are skipped, an interrupted one continues.

python -m geovq_jax.run --config=configs/mnist5k.py
"""

from geovq_jax import cli, pipeline

if __name__ == "__main__":
    cli.main(pipeline.run_all, documentation=__doc__)
