"""The model against what independent implementations gave for the same weights.

The fixtures come from `transformers` (PaliGemma, PaliGemma 2) and from a PyTorch
reading of the published world model on top of it; `tests/parity` makes them and holds
the model against the live originals.
"""

import numpy as np
import pytest
from parity_cases import (
    FIXTURES,
    assert_same_outputs,
    our_outputs,
    random_batch,
    random_params,
    read_fixture,
    sketch,
)


@pytest.mark.parametrize(
    "case, actions", FIXTURES, ids=[case.name for case, _ in FIXTURES]
)
def test_outputs_and_gradients_are_those_of_the_original(case, actions):
    expected = read_fixture(case)
    ours = our_outputs(case, random_params(case), random_batch(case, actions))
    assert_same_outputs(ours, expected)
    kept = {k.removeprefix("gradient/"): v for k, v in expected.items() if "/" in k}
    only_ours = set() if actions else {"action/kernel", "action/bias"}
    assert set(ours["gradient"]) - set(kept) == only_ours
    ours = sketch({name: ours["gradient"][name] for name in kept}, case.seed)
    largest = max(values[0] for values in kept.values())
    for name, values in kept.items():
        # The first number is the leaf's norm, of which the others are parts.
        atol = 1e-3 * max(values[0], 1e-4 * largest)
        np.testing.assert_allclose(ours[name], values, rtol=0, atol=atol, err_msg=name)
