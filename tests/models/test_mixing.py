import pytest
import torch

from cifar_lit.models.mixing import Mixing
from cifar_lit.utils.errors import UsageError

IMAGES = torch.randint(0, 256, (6, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def test_mixup_is_a_weighted_mean_of_images_and_labels() -> None:
    images, labels = Mixing(1.0, 0.0, 3)(IMAGES, LABELS, 0, 0)
    weight = float(labels[1, 1])
    assert 0 < weight < 1 and labels[1, 0] == pytest.approx(1 - weight)  # mixed with the image before
    expected = weight * IMAGES[1] + (1 - weight) * IMAGES[0]
    assert images.dtype == torch.uint8 and (images[1] - expected).abs().max() <= 0.51


def test_cutmix_pastes_a_box() -> None:
    images, labels = Mixing(0.0, 1.0, 3)(IMAGES, LABELS, 0, 0)
    own = (images[1] == IMAGES[1]).all(-1)
    assert ((images[1] == IMAGES[0]).all(-1) | own).all()
    assert labels[1, 1] == pytest.approx(float(own.float().mean()), abs=0.02)
    torch.testing.assert_close(labels.sum(1), torch.ones(6))


def test_same_batch_is_mixed_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Mixing(0.2, 1.0, 3)
    first = both(IMAGES, LABELS, 3, 7, 0)
    state = torch.get_rng_state()
    again = both(IMAGES, LABELS, 3, 7, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    others = [both(IMAGES, LABELS, 3, 8, 0), both(IMAGES, LABELS, 4, 7, 0), both(IMAGES, LABELS, 3, 7, 1)]
    monkeypatch.setenv("PL_GLOBAL_SEED", "9")
    others.append(both(IMAGES, LABELS, 3, 7, 0))
    assert not any(torch.equal(first[1], other[1]) for other in others)


def test_off_changes_nothing() -> None:
    images, labels = Mixing(0.0, 0.0, 3)(IMAGES, LABELS, 0, 0)
    assert images is IMAGES and labels is LABELS


def test_negative_alpha_is_refused() -> None:
    with pytest.raises(UsageError, match=r"model\.cutmix_alpha must be 0 or more, got -1"):
        Mixing(0.0, -1, 3)
