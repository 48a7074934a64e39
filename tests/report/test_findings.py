"""Conclusions of a report: opposite runs give opposite sentences, and every number in them is one of the run's."""

import copy

import numpy as np
import pytest

from geovq_jax.report import findings as module
from geovq_jax.report.findings import findings, gain_at_equal_bits, next_commands
from geovq_jax.report.neighbours import overlap

BITS = [16.0, 32.0, 64.0]


def likelihood(bits):
    return {"bits_per_code": bits, "bits_per_image": 16 * bits, "bits_per_dimension": 16 * bits / 784}


def scored(frechet, consistency, close=0.02):
    around = {"value": frechet, "low": frechet - 0.5, "high": frechet + 0.5}
    return {
        "frechet": around,
        "consistency": {"value": consistency},
        "memorisation": {"share_close": {"value": close, "low": close - 0.01, "high": close + 0.01}},
    }


@pytest.fixture
def run():
    """Numbers of a run in which everything went well and the autoencoder makes most of the error."""
    return {
        "run": {
            "kind": "spatial",
            "num_codes": 256,
            "codes_per_image": 16,
            "latent_dim": 8,
            "search": "context",
            "rate_weight": 0.1,
            "guidance": 1.0,
            "vae_length": "vae.num_steps",
            "vae_steps": 1000,
            "vae_best_step": 1000,
            "prior_steps": 700,
            "prior_best_step": 400,
            "prior_dropout": 0.2,
        },
        "images": {"truth-continuous": {"psnr": 22.0}, "truth-quantized": {"psnr": 21.0}},
        "errors": {"mean image": 0.05, "continuous": 0.008, "quantized": 0.010},
        "codes": {"used": 194, "unused_in_training": 0, "num_codes": 256, "perplexity": 106.0},
        "prior": {
            "gpt": likelihood(3.5),
            "gpt_without_class": likelihood(4.0),
            "bigram": likelihood(5.0),
            "unigram": likelihood(6.0),
            "uniform": likelihood(8.0),
        },
        "scores": {"sets": {"real": scored(2.0, 0.98), "samples, guidance 1": scored(2.5, 0.95)}},
        "geometry": {"edges": {"ratio_low": 0.1, "ratio_high": 2.0, "rank_correlation": 0.9}},
        "interpolation": {
            "paths": {
                "straight": {"length": 10.0, "confidence": 0.9, "distance": 0.2},
                "pixel geodesic": {"length": 8.0, "confidence": 0.8, "distance": 0.2},
            }
        },
        "sizes": {
            "sizes": [16, 64, 256],
            "pullback": {"bits_per_image": BITS, "psnr": [15.0, 16.0, 18.0]},
            "euclidean": {"bits_per_image": BITS, "psnr": [14.0, 15.0, 17.0]},
        },
    }


def changed(run, path, value):
    run = copy.deepcopy(run)
    *parents, last = path.split("/")
    part = run
    for name in parents:
        part = part[name]
    part[last] = value
    return run


def said(run, topic):
    return next((finding.sentence for finding in findings(run) if finding.topic == topic), "")


OPPOSITES = [
    ("Quality", "prior/gpt_without_class", likelihood(6.0), "20 % fewer than bigram", "no fewer than bigram"),
    ("Quality", "run/codes_per_image", 1, "20 % fewer than bigram counts", "33 % fewer than unigram counts"),
    ("Source of error", "errors/continuous", 0.002, "autoencoder dominates", "80 % of the squared error comes from"),
    ("Source of error", "errors/continuous", 0.002, "20 % of the squared error", "quantization dominates"),
    ("Source of error", "errors/quantized", 0.007, "20 % of the squared error", "adds no squared error"),
    ("Source of error", "errors/mean image", 0.009, "autoencoder dominates", "has learnt little"),
    ("Metric", "geometry/edges/ratio_low", 1.9, "differs from the Euclidean one", "close to a multiple of"),
    ("Its gain", "sizes/pullback/psnr", [13.0, 14.0, 16.0], "gain 1.00 dB at equal coded bits", "lose 1.00 dB"),
    ("Its gain", "sizes/pullback/psnr", [13.0, 15.0, 18.0], "1.00 dB at equal K = 256.", "(−1.00 dB at K = 16)"),
    (
        "Its gain",
        "sizes/pullback/psnr",
        [14.0, 15.0, 17.0],
        "gain 1.00 dB at equal K",
        "change nothing: +0.00 dB at equal coded bits, +0.00 dB at equal K",
    ),
    ("Codes", "codes/unused_in_training", 128, "the codebook is well used", "50 % of the codebook is wasted"),
    ("Samples", "scores/sets/samples, guidance 1", scored(9.0, 0.5), "within the intervals", "farther from"),
    ("Samples", "scores/sets/samples, guidance 1", scored(2.0, 0.9, close=0.9), "95 %", "some copy training images"),
    (
        "Paths",
        "interpolation/paths/pixel geodesic/confidence",
        0.95,
        "as along a cross-fade",
        "so they stay closer to the data",
    ),
    ("Paths", "interpolation/paths/pixel geodesic/length", 10.0, "are 20 % shorter than", "as long as straight lines"),
    ("Next", "errors/continuous", 0.002, "--config.vae.num_steps=2000", "--config.codebook.num_clusters=512"),
    ("Next", "run/vae_best_step", 500, "--config.vae.num_steps=2000", "--config.vae.latent_dim=16"),
]


@pytest.mark.parametrize(("topic", "path", "value", "before", "after"), OPPOSITES)
def test_opposite_outcomes_give_opposite_sentences(run, topic, path, value, before, after):
    assert before in said(run, topic)
    assert before not in said(changed(run, path, value), topic)
    assert after in said(changed(run, path, value), topic)
    assert after not in said(run, topic)


def test_what_was_not_measured_is_not_said(run):
    assert [finding.topic for finding in findings(run)] == [
        "Quality", "Source of error", "Metric", "Its gain", "Codes", "Samples", "Paths", "Next"
    ]  # fmt: skip
    del run["sizes"]["pullback"], run["interpolation"]["paths"]["pixel geodesic"]
    run["scores"] = {}
    assert [f.topic for f in findings(run)] == ["Quality", "Source of error", "Metric", "Codes", "Next"]


def test_the_gain_is_the_vertical_distance_of_the_curves():
    bits = np.array([10.0, 20.0, 40.0])
    sweep = {
        "pullback": {"bits_per_image": list(bits), "psnr": list(0.1 * bits)},
        "euclidean": {"bits_per_image": list(bits + 5.0), "psnr": list(0.1 * (bits + 5.0) - 0.7)},
    }
    assert gain_at_equal_bits(sweep) == pytest.approx(0.7)
    sweep["euclidean"]["bits_per_image"] = [50.0, 60.0, 70.0]
    assert gain_at_equal_bits(sweep) is None


def test_commands_follow_the_numbers(run):
    def keys(numbers):
        return [entry.command.partition("--config.")[2].partition("=")[0] for entry in next_commands(numbers)]

    assert keys(run)[0] == "vae.num_steps"
    assert all(entry.command.startswith("python -m geovq_jax.") for entry in next_commands(run))
    assert len(next_commands(run)) >= 2
    quantized = changed(run, "errors/continuous", 0.001)
    assert keys(changed(quantized, "run/search", "none"))[0] == "codes.search"
    assert "codes.rate_weight" in keys(changed(run, "run/rate_weight", 0.0))
    poor = changed(run, "scores/sets/samples, guidance 1", scored(9.0, 0.5))
    assert "prior.dropout" in keys(poor)
    assert "prior.num_steps" in keys(changed(poor, "run/prior_best_step", 700))
    assert keys(changed(run, "codes/unused_in_training", 200))[0] == "codebook.num_clusters"


def test_suggested_keys_exist_and_take_the_value(run):
    from geovq_jax.config import default_config, flat

    known = flat(default_config())
    variants = [
        run,
        changed(run, "codes/unused_in_training", 200),
        changed(run, "run/vae_best_step", 1),
        changed(run, "run/search", "none"),
    ]
    for entry in (entry for numbers in variants for entry in module.next_commands(numbers)):
        if "--config." in entry.command:
            key, value = entry.command.partition("--config.")[2].split("=")
            assert isinstance(known[key], str) or float(value) > 0


def test_overlap_of_shifted_uniform_values():
    values = np.linspace(0.0, 1.0, 60_001)
    assert overlap(values, values) == 1.0
    assert overlap(values, values + 0.5) == pytest.approx(0.5, abs=0.01)
    assert overlap(values, values + 2.0) == 0.0
