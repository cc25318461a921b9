import numpy as np
from sklearn.neighbors import NearestNeighbors

from cifar_lit.analysis.neighbors import nearest


def test_nearest_rows_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    features, known = rng.normal(size=(600, 16)).astype(np.float32), rng.normal(size=(90, 16)).astype(np.float32)
    rows, cosines = nearest(features, known, 5)
    distances, expected = NearestNeighbors(n_neighbors=5, metric="cosine").fit(known).kneighbors(features)
    assert (rows == expected).all()
    np.testing.assert_allclose(cosines, 1 - distances, atol=1e-5)
    assert nearest(features[:2], known[:3], 5)[0].shape == (2, 3)
