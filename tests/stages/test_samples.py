"""Drawing under a configuration: batches that change nothing, completions, labels and rows of the grid."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from geovq_jax import codec, pipeline, staleness
from geovq_jax.config import default_config, read_config
from geovq_jax.models import gpt, sampling
from geovq_jax.models.sampling import balanced_labels, draw, sample
from geovq_jax.stages import samples
from geovq_jax.workdir import save_npz

ARCH = gpt.Architecture(9, 6, 3, embed_dim=16, num_layers=1, num_heads=2, grid=(3, 2))
SHAPES = jax.eval_shape(partial(gpt.init, arch=ARCH), jax.random.key(0))
RNG = np.random.default_rng(0)
PARAMS = jax.tree.map(lambda p: jnp.asarray(0.5 * RNG.standard_normal(p.shape), jnp.float32), SHAPES)
LABELS = (np.arange(17) % 4).astype(np.int32)


def section(**changes):
    config = default_config()
    config.update_from_flattened_dict({f"sample.{name}": value for name, value in changes.items()})
    return dict(config.sample)


def test_batches_change_nothing(monkeypatch):
    settings = {"temperature": 0.8, "top_k": 7, "top_p": 0.9, "min_p": 0.05, "guidance": 1.5}
    whole = sample(jax.random.key(4), PARAMS, ARCH, jnp.asarray(LABELS), **settings)
    monkeypatch.setattr(sampling, "BATCH", 5)
    codes, log_p = draw(jax.random.key(4), PARAMS, ARCH, LABELS, section(**settings))
    np.testing.assert_array_equal(codes, whole.codes)
    np.testing.assert_allclose(log_p, whole.log_probabilities, atol=1e-5)


def test_defaults_of_the_section_draw_from_the_prior_itself():
    plain = sample(jax.random.key(4), PARAMS, ARCH, jnp.asarray(LABELS))
    codes, _ = draw(jax.random.key(4), PARAMS, ARCH, LABELS, section())
    np.testing.assert_array_equal(codes, plain.codes)
    guided, _ = draw(jax.random.key(4), PARAMS, ARCH, LABELS, section(), guidance=4.0)
    assert (guided != codes).any()


@pytest.mark.parametrize(("shape", "kept"), [((4, 4), 8), ((3, 2), 4), ((1, 5), 5), ((7, 3), 12)])
def test_half_of_the_rows_is_kept(shape, kept):
    lower = samples.lower_half(shape)
    assert lower.shape == shape
    np.testing.assert_array_equal(lower.ravel(), np.arange(lower.size) >= kept)


def test_upper_halves_are_kept():
    given = RNG.integers(0, 9, (17, 3, 2)).astype(np.int32)
    upper = ~samples.lower_half((3, 2))
    codes, _ = draw(jax.random.key(5), PARAMS, ARCH, LABELS, section(), prompt=given, kept=upper)
    np.testing.assert_array_equal(codes.reshape(17, 3, 2)[:, :2], given[:, :2])
    assert (codes.reshape(17, 3, 2)[:, 2] != given[:, 2]).any()


@pytest.mark.parametrize(
    ("count", "class_id", "expected"),
    [(6, -1, [0, 0, 1, 1, 2, 2]), (5, -1, [0, 0, 1, 1, 2]), (2, -1, [0, 1]), (3, 2, [2, 2, 2]), (2, -2, [3, 3])],
)
def test_labels_are_balanced(count, class_id, expected):
    np.testing.assert_array_equal(balanced_labels(count, class_id, 3), expected)


def test_rows_hold_one_class_each_and_one_class_fills_rows():
    images = RNG.random((5, 2, 2, 1)).astype(np.float32)
    names = ("0", "1", "2", "3", "sneaker")
    rows, captions = samples.sample_rows(images, np.array([0, 0, 0, 4, 4], np.int32), names, columns=3)
    assert captions == ["class 0", "sneaker"]
    np.testing.assert_array_equal(rows[0], images[:3])
    np.testing.assert_array_equal(rows[1, :2], images[3:])
    assert (rows[1, 2] == 1).all()
    rows, captions = samples.sample_rows(images, np.full(5, 4, np.int32), names, columns=3)
    assert captions == ["sneaker", ""]
    np.testing.assert_array_equal(rows.reshape(6, 2, 2, 1)[:5], images)
    assert samples.sample_rows(images, np.full(5, 5, np.int32), names, columns=3)[1] == ["no class", ""]


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """A work directory with codes of three classes and samples of an earlier call."""
    monkeypatch.setattr(staleness, "check_upstream", lambda *_: None)
    save_npz(
        tmp_path / "codes" / "train.npz",
        codes=np.zeros((4, 2, 2), np.int32),
        distance=np.zeros((4, 2, 2)),
        label=np.array([0, 1, 2, 2], np.int32),
        index=np.arange(4),
    )
    (tmp_path / "samples.npz").write_bytes(b"earlier")
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "dropout", "message"),
    [
        ({"class_id": 3}, 0.1, "expected sample.class_id below 3, got 3"),
        ({"top_p": 0.0}, 0.1, "expected sample.top_p to be"),
        ({"class_id": -2}, 0.0, "expected prior.label_dropout above 0"),
    ],
)
def test_refused_settings_leave_earlier_samples_and_the_stored_configuration(settings, dropout, message, earlier):
    config = default_config()
    config.prior.label_dropout = dropout
    with pytest.raises(ValueError, match=message):
        pipeline.generate(earlier, config, settings)
    config.sample.class_id = settings.get("class_id", 4)
    with pytest.raises(ValueError, match=r"expected (sample.class_id|prior.label_dropout)"):
        pipeline.entry("samples")(earlier, config)
    assert (earlier / "samples.npz").read_bytes() == b"earlier"
    assert (earlier / "config.json").read_text() == "{}"


def test_settings_of_a_call_are_recorded_with_its_samples_and_end_with_it(earlier, monkeypatch):
    asked = []

    def generate(run, settings=None, given=None):
        asked.append(dict(settings or {}))
        save_npz(run.workdir / "samples.npz", temperature=asked[-1].get("temperature", run.config.sample.temperature))
        return ""

    monkeypatch.setattr(pipeline, "_function", lambda name: generate)
    config = default_config()
    for settings in ({"temperature": 0.5}, {"temperature": 0.5}, {}, {}, {"class_id": 1}):
        pipeline.generate(earlier, config, settings)
    pipeline.entry("samples")(earlier, config)
    assert asked == [{"temperature": 0.5}, {}, {"class_id": 1}, {}]
    assert read_config(earlier / "config.json").sample == default_config().sample


def test_a_mask_marks_every_code_that_it_touches(tmp_path):
    marks = np.zeros((8, 12), np.uint8)
    marks[3, 4:7] = 255
    Image.fromarray(marks).save(tmp_path / "mask.png")
    np.save(tmp_path / "mask.npy", np.array([[0, 0, 0], [0, 1, 0]]))
    np.testing.assert_array_equal(codec._read_mask(tmp_path / "mask.png", (2, 3)), [[0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(codec._read_mask(tmp_path / "mask.npy", (2, 3)), [[0, 0, 0], [0, 1, 0]])
    for grid, message in (((3, 3), "multiple of 3 x 3"), ((2, 5), "multiple of 2 x 5")):
        with pytest.raises(ValueError, match=message):
            codec._read_mask(tmp_path / "mask.png", grid)
    np.save(tmp_path / "none.npy", np.zeros((2, 3)))
    with pytest.raises(ValueError, match="white places"):
        codec._read_mask(tmp_path / "none.npy", (2, 3))
