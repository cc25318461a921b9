from collections.abc import Callable

import pytest

from cifar_lit.report.results import RunResults
from cifar_lit.web.collect import collect_results
from cifar_lit.web.content import Content
from cifar_lit.web.views import Views


@pytest.fixture(scope="session")
def make_views(
    make_results: Callable[..., RunResults], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Views]:
    """Return a function that makes the views of an untrained network, and the folder that they read."""

    def make(max_errors: int = 5, **changes: object) -> Views:
        results, folder = make_results(**changes), tmp_path_factory.mktemp("content")
        return Views(collect_results(results, folder, max_errors), folder, Content.load(folder))

    return make
