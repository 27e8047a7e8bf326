"""The committed fixtures are what the PyTorch models give today."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from parity_cases import FIXTURES, read_fixture
from write_fixtures import make_fixture

pytestmark = pytest.mark.parity


@pytest.mark.parametrize(
    "case, actions", FIXTURES, ids=[case.name for case, _ in FIXTURES]
)
def test_fixtures_are_fresh(case, actions):
    kept, fresh = read_fixture(case), make_fixture(case, actions)
    assert set(kept) == set(fresh)
    for name, expected in fresh.items():
        np.testing.assert_allclose(
            kept[name], expected, rtol=1e-4, atol=1e-5, err_msg=f"{name}: make fixtures"
        )
