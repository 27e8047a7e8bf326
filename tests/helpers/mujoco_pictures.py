"""Pictures that MuJoCo draws in a process of its own: OpenGL is chosen at import."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


def drawn(program: str, folder: Path, **given: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays that a program writes to its second argument, from those in its first.

    Skips the test where there is no OpenGL and nobody has asked for any.
    """
    np.savez(folder / "given.npz", **given)
    done = subprocess.run(
        [sys.executable, "-c", program, folder / "given.npz", folder / "out.npz"],
        env={"MUJOCO_GL": "egl", **os.environ},
        capture_output=True,
        text=True,
    )
    if done.returncode and "OpenGL" in done.stderr and "MUJOCO_GL" not in os.environ:
        pytest.skip("no OpenGL on this host: " + done.stderr.strip().split("\n")[-1])
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "out.npz"))
