"""Image for the README: `python -m experiments.readme_picture`.

It shows a scene, the same scene after a straight push, and questions about both with
exact answers, which a semantic world model predicts from the left image and the
actions alone.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from swm_jax import envs, worlds
from swm_jax.files import replaced
from swm_jax.worlds.board.render.device import render
from swm_jax.worlds.board.scene import BLOCK_SETS, Scene

BOARD = worlds.language("board")

OUTPUT = Path(__file__).parents[1] / "docs" / "board.png"
ACTIONS = 14  # of 0.012 m
BLOCKS = {  # x, y (metres), yaw of every slot of the standard set
    "red moon": (0.25, -0.17, 0.4),
    "blue moon": (0.46, 0.17, 2.0),
    "red pentagon": (0.52, -0.15, 0.3),
    "yellow pentagon": (0.27, 0.12, 0.9),
    "blue cube": (0.36, 0.05, 0.5),
    "green cube": (0.24, -0.02, 1.1),
    "green star": (0.37, -0.10, 0.2),
    "yellow star": (0.46, -0.01, 0.6),
}
PEG = (0.372, -0.155)
PUSH = (-0.0005, 0.012)  # to the right
ASKED = (
    ("peg_touching", "green star"),
    ("block_touching", "green star", "blue cube"),
    ("blocks_closer", "green star", "blue cube"),
    ("block_moved", "green star"),
    ("block_moved", "red moon"),
)
CANVAS, INK, FAINT = (250, 250, 248), (30, 30, 30), (120, 120, 120)
VIEW = (416, 234)  # width, height of a picture
MARGIN, LINE = 16, 24


def main() -> None:
    """Simulates the push and writes the image."""
    scenes = _push()
    now = jax.tree.map(lambda x: x[0], scenes)
    later = jax.tree.map(lambda x: x[-1], scenes)
    asked = [BOARD.question(*words) for words in ASKED]
    rows = [(q.text, _answer(q, now, now), _answer(q, now, later)) for q in asked]
    views = [np.asarray(render(s, *VIEW[::-1], supersample=4)) for s in (now, later)]
    with replaced(OUTPUT) as temporary:
        _draw(views, rows).quantize(128).save(temporary, optimize=True)
    print(f"{OUTPUT}: {OUTPUT.stat().st_size / 1024:.0f} kB")


def _push() -> Scene:
    env = worlds.load_env("board", backend="mujoco")
    names = [envs.BLOCK_NAMES[i] for i in BLOCK_SETS["standard"]]
    start = Scene(
        block_pose=jnp.array([[BLOCKS[name] for name in names]], jnp.float32),
        block_id=jnp.array([BLOCK_SETS["standard"]], jnp.int32),
        peg=jnp.array([PEG], jnp.float32),
    )
    actions = np.tile(np.float32(PUSH), (1, ACTIONS, 1))
    scenes = env.rollout_batch(env.state_from_scene(start), actions)
    return jax.tree.map(lambda x: x[0], scenes)


def _answer(asked, now: Scene, later: Scene) -> str:
    answer = BOARD.answer(asked.type_id, np.array(asked.args), now, later)
    return asked.answers[int(answer)]


def _draw(views, rows) -> Image.Image:
    width = 2 * VIEW[0] + 3 * MARGIN
    height = 2 * MARGIN + LINE + VIEW[1] + (len(rows) + 1) * LINE + MARGIN
    image = Image.new("RGB", (width, height), CANVAS)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(16)
    columns = MARGIN, MARGIN * 2 + VIEW[0]
    titles = "now", f"after {ACTIONS} actions ({ACTIONS / 10:.1f} s)"
    for x, view, title in zip(columns, views, titles):
        draw.text((x, MARGIN), title, FAINT, font)
        image.paste(Image.fromarray(view), (x, MARGIN + LINE))
    y = MARGIN * 2 + LINE + VIEW[1]
    answers = columns[1], columns[1] + VIEW[0] // 2
    for x, text in zip((MARGIN, *answers), ("asked", "now", "after the actions")):
        draw.text((x, y), text, FAINT, font)
    for text, *both in rows:
        y += LINE
        for x, word in zip((MARGIN, *answers), (text, *both)):
            draw.text((x, y), word, INK, font)
    return image


if __name__ == "__main__":
    main()
