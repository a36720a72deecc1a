"""Images in two parts: which pixels are given, apart and together again, and batches of both."""

import pytest
import torch

from ppl_models.data import Batches, DataError, SplitBatches, image_parts

# . is predicted, # is given
GIVEN = {
    ("upper", 1): "#### #### .... ....",
    ("lower", 1): ".... .... #### ####",
    ("left", 1): "##.. ##.. ##.. ##..",
    ("right", 1): "..## ..## ..## ..##",
    ("quadrant", 1): ".... .... ##.. ##..",
    ("quadrant", 2): "##.. ##.. ##.. ##..",
    ("quadrant", 3): "#### #### ##.. ##..",
}


@pytest.mark.parametrize(("condition", "quadrants"), GIVEN)
def test_what_is_given(condition, quadrants):
    parts = image_parts(condition, (1, 4, 4), quadrants)
    drawn = ["."] * 16
    for place in parts.given.tolist():
        drawn[place] = "#"
    assert "".join(drawn) == GIVEN[condition, quadrants].replace(" ", "")
    assert sorted([*parts.given.tolist(), *parts.predicted.tolist()]) == list(range(16))


def test_the_words_say_what_is_predicted():
    words = [image_parts(condition, (1, 4, 4), quadrants).words for condition, quadrants in GIVEN]
    assert words == [
        "lower half given the upper half", "upper half given the lower half", "right half given the left half",
        "left half given the right half", "three quadrants given one", "two quadrants given two",
        "one quadrant given three",
    ]  # fmt: skip


def test_a_pixel_is_given_in_all_its_channels_and_the_middle_row_is_in_the_lower_half():
    parts = image_parts("upper", (3, 5, 2))
    image = torch.zeros(3, 5, 2)
    image[:, :2] = 1.0
    assert torch.equal(image.flatten().nonzero().flatten(), parts.given)


def test_apart_and_together_again():
    parts = image_parts("quadrant", (1, 4, 4))
    images = torch.rand(7, 16)
    x, c = parts.split(images)
    assert x.shape == (7, 12) and c.shape == (7, 4)
    assert torch.equal(parts.join(x, c), images)
    many = parts.join(torch.rand(3, 7, 12), c)  # three completions of each
    assert many.shape == (3, 7, 16) and torch.equal(parts.split(many)[1], c.expand(3, 7, 4))


def test_batches_of_both_parts_are_those_of_the_images():
    parts = image_parts("upper", (1, 4, 4))
    grey, y = torch.rand(10, 16), torch.arange(10)
    whole = Batches((grey, y), 4, binarize=True)
    split = SplitBatches(whole, parts).to("cpu")
    assert (split.num_rows, len(split)) == (10, 3)
    for (images, labels), (x, c, also) in zip(whole.epoch(2, seed=1), split.epoch(2, seed=1), strict=True):
        assert torch.equal(parts.join(x, c), images) and torch.equal(also, labels)
        assert x.is_contiguous() and c.is_contiguous()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("top", (1, 4, 4)), "unknown condition 'top': choose upper, lower, left, right or quadrant"),
        (
            ("quadrant", (1, 4, 4), 4),
            "1, 2 or 3 quadrants of an image are given, got 4: pass 1, and 3 are predicted",
        ),
        (("upper", (1, 4, 4), 2), "a number of quadrants goes with the condition 'quadrant', not with 'upper'"),
        (("upper", (1, 1, 4)), "an image of 1 x 4 pixels has no such part: give images of at least 2 x 2"),
        (("left", (1, 4, 1)), "an image of 4 x 1 pixels has no such part: give images of at least 2 x 2"),
        (("quadrant", (1, 4, 1)), "an image of 4 x 1 pixels has no such part: give images of at least 2 x 2"),
    ],
)
def test_refusals(arguments, sentence):
    with pytest.raises(DataError) as error:
        image_parts(*arguments)
    assert str(error.value) == sentence
