import numpy as np
import pytest

from cifar_lit.analysis.label_issues import find_label_issues
from cifar_lit.analysis.predictions import Predictions


@pytest.mark.parametrize(
    ("last", "issues"),
    [
        (0.55, [2]),  # the last image is misclassified too, but not confidently
        (0.99, [4, 2]),  # by the margin
    ],
)
def test_label_issues_are_confident_disagreements(last: float, issues: list[int]) -> None:
    # Mean probability of the label: class 0: (0.9 + 0.8 + 0.1) / 3 = 0.6; class 1, first case: (0.7 + 0.45) / 2 = 0.575.
    first = np.array([0.9, 0.8, 0.1, 0.3, last])
    predictions = Predictions(np.arange(5), np.array([0, 0, 0, 1, 1]), np.log(np.stack([first, 1 - first], axis=1)))
    assert find_label_issues(predictions).tolist() == issues
