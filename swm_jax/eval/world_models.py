"""Loading of the checkpoint to evaluate, with checks against the world."""

import dataclasses
import hashlib
from typing import Any

import jax
import numpy as np

from swm_jax import worlds
from swm_jax.baselines import Answerer
from swm_jax.checkpoints import CheckpointError, LoadedModel, load_model
from swm_jax.envs import Env
from swm_jax.eval.config import EvalConfig, UserError
from swm_jax.models import VLMWorldModel
from swm_jax.models.ask import encode_answers


@dataclasses.dataclass(frozen=True)
class Learned:
    """A loaded checkpoint.

    Attributes:
      answerer: the model with its tokenizer and image size.
      facts: name, variant, parameters, training step and the like, for the report.
      identity: fingerprint of the parameters.
      max_horizon: longest action chunk it was trained on.
    """

    answerer: Answerer
    facts: dict
    identity: str
    max_horizon: int


def load_learned(config: EvalConfig, env: Env | None = None) -> Learned:
    """Reads the checkpoint of a configuration.

    Args:
      config: names the checkpoint.
      env: of the questions; None loads `config.world`.

    Raises:
      UserError: a checkpoint that is missing, incomplete, or of a model whose actions
        or vocabulary do not fit the env.
    """
    env = worlds.load_env(config.world) if env is None else env
    path = config.checkpoint or None
    try:
        loaded = load_model(path)
    except (CheckpointError, ValueError, OSError, KeyError) as error:
        where = f"--checkpoint {path}" if path else "the shipped checkpoint"
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{where} cannot be used: {reason}") from None
    model, tokenizer = loaded.config, loaded.tokenizer
    world_model = _fitting(loaded, env)
    _check_language(model, tokenizer, env)
    answerer = Answerer(
        name="swm",
        world=env.world,
        model=world_model,
        tokenizer=tokenizer,
        question_length=model.max_question_tokens,
        image_size=(model.image_size, model.image_size),
    )
    leaves = jax.tree.leaves(loaded.params)
    facts = {
        "name": path or "shipped with the package",
        "variant": model.variant,
        "layout": model.layout,
        "parameters": sum(x.size for x in leaves),
        "step": loaded.metadata.get("step"),
        "stage": loaded.metadata.get("stage"),
    }
    return Learned(answerer, facts, fingerprint(loaded.params), model.max_horizon)


def _fitting(loaded: LoadedModel, env: Env) -> VLMWorldModel:
    """World model of a checkpoint with the action scale of the env's domain."""
    try:
        world_model = loaded.world_model_for(worlds.load(env.world).scene.domain)
    except CheckpointError as error:
        raise UserError(str(error)) from None
    size = world_model.action_width
    if size != env.action_size:
        raise UserError(
            f"the checkpoint's actions have {size} numbers, the {env.world}'s have "
            f"{env.action_size}: it is a model of another robot"
        )
    return world_model


def _check_language(model, tokenizer, env: Env) -> None:
    if tokenizer is None:
        raise UserError(
            "the checkpoint has no tokenizer: convert it with "
            "python -m swm_jax.convert SRC DST --tokenizer FILE"
        )
    language = worlds.load(env.world).language
    table = language.table(env.block_ids)
    texts = [table.question(i).text for i in range(len(table))]
    try:
        tokenizer.encode_batch(texts, model.max_question_tokens)
        for kind in language.select():
            encode_answers(tokenizer, kind.answers.answers)
    except ValueError as error:
        raise UserError(
            f"the checkpoint's vocabulary does not fit the {env.world}: {error}"
        ) from None


def fingerprint(params: Any) -> str:
    """Hash of the parameters, twelve hex digits; large leaves are subsampled."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        flat = leaf.reshape(-1)
        sample = np.asarray(flat[:: max(flat.size // 4096, 1)])
        digest.update(f"{jax.tree_util.keystr(path)}{leaf.shape}".encode())
        digest.update(sample.tobytes())
    return digest.hexdigest()[:12]
