"""Sheets of images and pictures of latent codes: what is where, pixel by pixel."""

import io

import numpy as np
import pytest
from PIL import Image, ImageSequence
from sklearn.decomposition import PCA

from inference.comparison.figures import image_grid
from inference.comparison.game_pictures import animation
from inference.comparison.latent_pictures import in_plane, latent_picture
from inference.comparison.sheets import RED, framed, headed, masked, stacked


def red(sheet: np.ndarray) -> np.ndarray:
    return (sheet == RED).all(-1)


def test_a_frame_runs_along_the_edges_of_its_box():
    x = np.zeros((3, 1, 8, 10))
    boxes = [[2, 1, 5, 6], [np.nan] * 4, [-3, -3, 30, 30]]
    sheet = framed(x, boxes, columns=2, cell=40)  # four pixels for one, lines of two
    assert sheet.shape == (2 * 32 + 3, 2 * 40 + 3, 3)
    first, second, third = red(sheet)[:32, :40], red(sheet)[:32, 43:], red(sheet)[35:, :40]
    ys, xs = first.nonzero()
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (8, 20, 4, 24)
    assert first[4, 8:21].all() and first[4:25, 20].all() and not first[6:23, 10:19].any()
    assert not second.any()
    # a box larger than the image is drawn along its edge, not on its neighbours
    assert third[0].all() and third[-1].all() and third[:, 0].all() and third[:, -1].all()
    assert red(sheet).sum() == first.sum() + third.sum()


def test_without_boxes_a_framed_sheet_is_the_grid_itself():
    x = np.random.default_rng(0).random((5, 3, 4, 4))
    assert np.array_equal(framed(x, np.full((5, 4), np.nan), 2), image_grid(x, 2))


def test_missing_pixels_are_of_no_grey():
    x = np.random.default_rng(0).random((2, 1, 3, 3))
    missing = np.zeros((2, 1, 3, 3), bool)
    missing[0, 0, 1, 2] = True
    shown = masked(x, missing)
    assert shown.shape == (2, 3, 3, 3)
    assert len(set(shown[0, :, 1, 2])) == 3
    grey = np.repeat(x, 3, 1)
    grey[0, :, 1, 2] = shown[0, :, 1, 2]
    assert np.array_equal(shown, grey)


def test_headings_stand_over_their_columns():
    sheet = image_grid(np.zeros((6, 1, 8, 8)), 3)
    with_words = headed(sheet, ["A", "", "C"])
    strip, below = with_words[: -len(sheet)], with_words[-len(sheet) :]
    assert np.array_equal(below, sheet)
    lit = strip.min(-1) > 200
    wide = (sheet.shape[1] + 3) // 3
    assert lit[:, :wide].any() and not lit[:, wide : 2 * wide].any() and lit[:, 2 * wide :].any()


def test_sheets_of_two_widths_are_stacked():
    a, b = np.zeros((4, 6, 3), np.uint8), np.full((2, 9, 3), 255, np.uint8)
    whole = stacked([a, b])
    assert whole.shape == (4 + 6 + 2, 9, 3)
    assert (whole[:4, :6] == 0).all() and (whole[-2:] == 255).all() and (whole[:4, 6:] == 128).all()


def test_codes_of_two_units_are_the_axes_and_of_more_the_principal_components():
    z = np.random.default_rng(0).normal(size=(50, 4)) * [1, 5, 2, 0.1]
    points, words = in_plane(z[:, :2])
    assert np.array_equal(points, z[:, :2]) and words == ("unit 1", "unit 2")
    points, words = in_plane(z)
    assert np.allclose(points, PCA(2).fit_transform(z))
    share = z.var(0)[1] / z.var(0).sum()
    assert int(words[0].removeprefix("component 1, ").split("%")[0]) == pytest.approx(100 * share, abs=5)
    points, _ = in_plane(z[:, :1])
    assert np.array_equal(points[:, 0], z[:, 0]) and points.shape == (50, 2)


@pytest.mark.parametrize("labels", [None, np.arange(60) % 10, np.arange(60)], ids=["none", "ten", "sixty"])
def test_latent_pictures_are_png_files_for_light_and_dark_pages(labels):
    z = np.random.default_rng(0).normal(size=(60, 3))
    light, dark = (Image.open(io.BytesIO(latent_picture(z, labels, dark=each))) for each in (False, True))
    assert light.getpixel((2, 2)) == (255, 255, 255, 255) and dark.getpixel((2, 2)) == (20, 23, 27, 255)
    colours = {tuple(pixel) for pixel in np.asarray(light.convert("RGB")).reshape(-1, 3).tolist()}
    assert ((31, 119, 180) in colours) == (labels is not None and labels.max() < 10)  # the legend's first


def test_a_film_takes_its_time():
    pictures = [(f"t = {t}", buffer(t)) for t in range(3)]
    with Image.open(io.BytesIO(animation(pictures, milliseconds=120))) as film:
        times = [frame.info["duration"] for frame in ImageSequence.Iterator(film)]
    assert times == [120, 120, 2000]


def buffer(t: int) -> bytes:
    found = io.BytesIO()
    Image.new("RGB", (40, 40), (40 * t, 0, 0)).save(found, "PNG")
    return found.getvalue()
