import numpy as np
import pytest

from cifar_lit.training.lr_finder import where_lowest


@pytest.mark.parametrize("seed", range(5))
def test_suggests_the_learning_rate_up_to_which_the_loss_falls(seed: int) -> None:
    lrs = np.geomspace(1e-6, 1, 100)
    losses = 2.3 - 1.5 / (1 + (3e-3 / lrs) ** 2) + np.random.default_rng(seed).normal(0, 0.1, 100)
    losses[75:] += 20 * np.sin(np.linspace(0, np.pi, 25))  # explodes, and falls again at the highest learning rates
    for _ in range(2):
        lr = where_lowest(lrs, losses.astype(np.float32))
        assert lr is not None and 8e-3 < lr < 5e-2
        losses[90:] = np.nan
    assert where_lowest(lrs, np.linspace(2, 3, 100, dtype=np.float32)) is None
