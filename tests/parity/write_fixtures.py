"""What the fixtures hold: outputs of the PyTorch models, of gradients a sketch.

`make fixtures` writes them; weights and inputs are drawn again from their seeds.
"""

from pathlib import Path

import numpy as np
from parity_cases import FIXTURES, fixture_path, random_batch, random_params, sketch
from torch_paligemma import torch_outputs
from torch_swm import torch_swm_outputs


def make_fixture(case, actions: bool) -> dict[str, np.ndarray]:
    """The arrays of one fixture."""
    params, batch = random_params(case), random_batch(case, actions)
    outputs = (torch_swm_outputs if actions else torch_outputs)(case, params, batch)
    gradient = sketch(outputs.pop("gradient"), case.seed)
    del outputs["inputs"]  # seen in what follows from them
    arrays = {name: np.float32(x) for name, x in outputs.items()}
    return arrays | {f"gradient/{name}": np.float32(x) for name, x in gradient.items()}


def main() -> None:
    for case, actions in FIXTURES:
        path = fixture_path(case)
        path.parent.mkdir(exist_ok=True)
        np.savez_compressed(path, **make_fixture(case, actions))
        print(f"wrote {path} ({path.stat().st_size / 1e3:.0f} kB)")
    stale = set(path.parent.glob("*.npz")) - {fixture_path(c) for c, _ in FIXTURES}
    for path in map(Path, stale):
        print(f"{path} belongs to no case; remove it")


if __name__ == "__main__":
    main()
