"""A user's own images: order, size, colour, and files that must be refused."""

import numpy as np
import pytest
from PIL import Image

from geovq_jax.data import load
from geovq_jax.data.folder import list_images, read_folder, read_image


def save(path, array, **arguments):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **arguments)


@pytest.fixture
def images(tmp_path):
    """Two classes of grey 8 x 8 images, of which each has one value, and entries that are no images."""
    for row, name in enumerate(("cat/b.png", "cat/a.png", "dog/1.PNG", "dog/2.bmp")):
        save(tmp_path / name, np.full((8, 8), 10 * row, np.uint8))
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "cat" / ".hidden.png").write_text("no image")
    (tmp_path / ".git").mkdir()
    (tmp_path / "readme.md").write_text("no class")
    return tmp_path


def test_images_are_sorted_by_class_and_name_and_other_files_are_passed_over(images):
    examples, classes = read_folder(images, (4, 4))
    assert classes == ["cat", "dog"]
    assert examples.images.shape == (4, 4, 4, 1)
    assert examples.images[:, 0, 0, 0].tolist() == [10, 0, 20, 30]
    assert examples.labels.tolist() == [0, 0, 1, 1]


def test_resizing_keeps_the_central_square(tmp_path):
    # 24 columns: red, green, blue thirds of 8; the central square of the 8 rows is the green third.
    array = np.zeros((8, 24, 3), np.uint8)
    for third in range(3):
        array[:, 8 * third : 8 * third + 8, third] = 200
    save(tmp_path / "c" / "wide.png", array)
    save(tmp_path / "c" / "tall.png", array.transpose(1, 0, 2).copy())
    examples, _ = read_folder(tmp_path, (8, 8))
    np.testing.assert_array_equal(examples.images, np.broadcast_to([0, 200, 0], (2, 8, 8, 3)))
    # Halving a pattern with period 2 gives its mean, where a choice of pixels would give an extreme.
    save(tmp_path / "d" / "board.png", np.tile(np.array([[0, 200], [200, 0]], np.uint8), (16, 16)))
    board = read_folder(tmp_path, (16, 16))[0].images[2, 2:-2, 2:-2]
    assert np.all(np.abs(board.astype(int) - 100) <= 2)


def test_colour_is_kept_if_any_image_has_it(images):
    save(images / "dog" / "3.png", np.full((8, 8, 3), (9, 8, 7), np.uint8))
    examples, _ = read_folder(images, (2, 2))
    assert examples.images.shape == (5, 2, 2, 3)
    assert examples.images[4, 0, 0].tolist() == [9, 8, 7]
    assert examples.images[0, 0, 0].tolist() == [10, 10, 10]


def test_orientation_of_a_camera_is_applied(tmp_path):
    array = np.zeros((16, 16), np.uint8)
    array[:8] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was turned: rotate by 90 degrees clockwise to show.
    save(tmp_path / "c" / "a.png", array, exif=exif)
    shown = read_folder(tmp_path, (16, 16))[0].images[0, ..., 0]
    np.testing.assert_array_equal(shown, np.rot90(array, -1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GIF89a" + bytes(40), "expected an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "expected an image"),
        (b"", "expected an image"),
        ("truncated", "expected a complete image"),
        ("sixteen bits", "expected 16 bits in grey images only, got .*bad.png among colour images"),
        ("floats", "expected 8 bits per channel, or 16-bit grey, got mode F"),
        ("bomb", "expected an image that can be read, below Pillow's size limit"),
    ],
)
def test_a_file_that_would_be_read_wrongly_is_refused_by_name(images, monkeypatch, content, message):
    path = images / "dog" / "bad.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "truncated":
        save(path, noise)
        path.write_bytes(path.read_bytes()[:2000])
    elif content == "sixteen bits":
        save(path, noise.astype(np.uint16) * 256)
        save(path.with_name("colour.png"), np.zeros((8, 8, 3), np.uint8))
    elif content == "floats":
        path.unlink(missing_ok=True)
        path = path.with_name("bad.png.tif")
        save(path, noise.astype(np.float32))
    else:
        save(path, noise)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=message) as caught:
        read_folder(images, (8, 8))
    assert "bad.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_folders_and_empty_classes_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a folder .*absent"):
        list_images(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="expected images"):
        list_images(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected images .*empty, found none"):
        list_images(tmp_path)


def test_load_splits_a_folder_with_rows_of_its_sorted_list(tmp_path):
    for name, value in (("x", 100), ("y", 200)):
        for row in range(20):
            save(tmp_path / name / f"{row:02}.png", np.full((4, 4), value + row, np.uint8))
    dataset = load(f"folder:{tmp_path}", image_size=(4, 4), seed=1)
    assert dataset.num_classes == 2
    assert dataset.source == str(tmp_path)
    for split, size in ((dataset.train, 16), (dataset.valid, 2), (dataset.test, 2)):
        assert np.bincount(split.labels).tolist() == [size, size]
        assert split.images[:, 0, 0, 0].tolist() == (100 + split.index % 20 + 100 * (split.index // 20)).tolist()
    assert load(f"folder:{tmp_path}").train.images.shape == (32, 32, 32, 1)
    with pytest.raises(ValueError, match=r"expected a positive image size .* got \(0, 4\)"):
        load(f"folder:{tmp_path}", image_size=(0, 4))


def test_load_refuses_a_folder_too_small_to_split(tmp_path):
    for row in range(2):
        save(tmp_path / "x" / f"{row}.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="expected at least 3 rows"):
        load(f"folder:{tmp_path}")


def test_a_folder_without_sub_folders_is_one_class(tmp_path):
    for row in range(5):
        save(tmp_path / f"{row}.png", np.full((6, 9), 10 * row, np.uint8))
    dataset = load(f"folder:{tmp_path}", image_size=(2, 3))
    assert dataset.num_classes == 1
    assert dataset.train.images.shape == (3, 2, 3, 1)
    assert (dataset.train.labels == 0).all()
    np.testing.assert_array_equal(dataset.train.images[:, 0, 0, 0], 10 * dataset.train.index)


def test_crops_of_a_wide_image(tmp_path):
    """Four columns of 8 x 4 pixels, worth 40, 80, 120 and 160, brought to a square of 8."""
    save(tmp_path / "a.png", np.repeat(np.array([40, 80, 120, 160], np.uint8), 4)[None].repeat(8, axis=0))
    path = tmp_path / "a.png"
    fitted, padded, cut = (read_image(path, (8, 8), crop, grey=True)[..., 0] for crop in ("fit", "pad", "centre"))
    expected = np.repeat([80, 120], 4)[None].repeat(8, axis=0)
    np.testing.assert_array_equal(fitted, expected)
    np.testing.assert_array_equal(cut, expected)
    assert (padded[[0, 1, 6, 7]] == 0).all()
    assert padded[3].min() >= 30
    small = read_image(path, (12, 20), "centre", grey=True)[..., 0]
    assert (small[:2] == 0).all()
    assert (small[:, :2] == 0).all()
    np.testing.assert_array_equal(small[2:10, 2:18], np.asarray(Image.open(path)))
    with pytest.raises(ValueError, match="crop among fit, pad, centre"):
        read_image(path, (8, 8), "stretch", grey=True)


def test_sixteen_bits_are_kept_and_eight_fill_their_range(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (5, 7), np.uint16)
    save(tmp_path / "a.png", deep)
    save(tmp_path / "b.png", (deep // 257).astype(np.uint8))
    examples, _ = read_folder(tmp_path, (5, 7), "centre")
    assert examples.images.dtype == np.uint16
    np.testing.assert_array_equal(examples.images[0, ..., 0], deep)
    np.testing.assert_array_equal(examples.images[1, ..., 0], deep // 257 * 257)
    save(tmp_path / "a.png", np.full((5, 7), 40001, np.uint16))
    assert (read_folder(tmp_path, (3, 2), "fit")[0].images[0] == 40001).all()
