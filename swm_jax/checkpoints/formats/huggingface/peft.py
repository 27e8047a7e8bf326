"""LoRA adapters that PEFT wrote, merged into the model that they were trained on.

    adapter_config.json          rank, alpha and what else PEFT can do
    adapter_model.safetensors    per adapted matrix lora_A [r, in] and lora_B [out, r]

The adapted weight is W + scale B A, with scale = alpha / r, or alpha / sqrt(r) where
`use_rslora` says so. The base may be of any format: the product is turned into our axes
by the table of names (`table`), and added in float32 while the weight is read.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from swm_jax.checkpoints.errors import CheckpointError, listed
from swm_jax.checkpoints.formats.huggingface.fields import number, part_of, whole
from swm_jax.checkpoints.formats.huggingface.table import (
    EMBED_NAME,
    HEAD_NAME,
    Rule,
    rules_for,
    usual_name,
)
from swm_jax.checkpoints.formats.lazy_arrays import Index, Leaf, Source, check_finite
from swm_jax.checkpoints.formats.safetensors_files import (
    StoredTensor,
    list_file,
    read_json,
    read_slice,
)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# What we do not implement: field -> the values that mean that it is not used.
_OFF: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        ("use_dora", "fan_in_fan_out", "lora_bias", "use_qalora"), (False, None)
    ),
    **dict.fromkeys(
        ("modules_to_save", "layer_replication", "megatron_config", "arrow_config",
         "trainable_token_indices", "target_parameters", "alora_invocation_tokens"),
        (None, [], {}),
    ),
    "bias": ("none", None),
    # Others begin from a base whose weights they have changed.
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}  # fmt: skip
_KNOWN = """peft_type r lora_alpha use_rslora rank_pattern alpha_pattern
    base_model_name_or_path task_type inference_mode lora_dropout target_modules
    exclude_modules layers_to_transform layers_pattern revision auto_mapping
    megatron_core peft_version eva_config corda_config loftq_config qalora_group_size
    runtime_config ensure_weight_tying"""
_FACTOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.\w+)?\.weight")


class LowRank(NamedTuple):
    """The adapter of one stored matrix: the product scale b a is added to it.

    Attributes:
      a, b: float32[r, in] and float32[out, r].
      scale: see the module.
    """

    a: np.ndarray
    b: np.ndarray
    scale: float


class PeftAdapter:
    """An adapter's folder.

    Attributes:
      folder: of `adapter_config.json`.
      base: what PEFT stored as name or path of the base; "" if nothing.
      doubts: a line for the user if there are fields of unknown meaning.

    Raises:
      CheckpointError: no LoRA, something that is not supported, or damage.
    """

    def __init__(self, folder: Path, check: bool = True):
        self.folder, self._check = folder, check
        self._names: dict[tuple[str, str], str] = {}  # stored name by module and side
        self._where = str(folder / CONFIG)
        self._config = config = read_json(folder / CONFIG)
        kind = config.get("peft_type")
        if kind != "LORA":
            raise CheckpointError(
                f"{self._where} has peft_type {kind!r:.60}, expected LORA"
            )
        for field, values in _OFF.items():
            if config.get(field, values[0]) not in values:
                raise CheckpointError(
                    f"{self._where} has {field} {config[field]!r:.60}, which is not "
                    "supported: merge it with PEFT (merge_and_unload) and save the "
                    "whole model"
                )
        if not (folder / WEIGHTS).is_file():
            pickled = (folder / "adapter_model.bin").is_file()
            more = "; adapter_model.bin is a pickle, never read" if pickled else ""
            raise CheckpointError(f"{folder} has no {WEIGHTS}{more}")
        self.base = str(config.get("base_model_name_or_path") or "")
        unknown = sorted(config.keys() - _OFF.keys() - {*_KNOWN.split()})
        unknown = [name for name in unknown if config[name]]
        self.doubts = [
            f"{self._where} has fields that are not known, and ignored: "
            f"{', '.join(unknown)}"
        ] * bool(unknown)

    def merged_into(self, base: Source) -> Source:
        """The base with the adapter merged, as lazy arrays.

        Raises:
          CheckpointError: factors that are damaged, lack their other half, or belong to
            no matrix of the base.
        """
        shapes = {key: leaf.shape for key, leaf in base.leaves.items()}
        rules = rules_for(shapes)
        homes = {
            name: (key, place)
            for key, rule in rules.items()
            for name, place in rule.names(shapes[key]).items()
        }
        found: dict[str, dict[tuple[int, ...], LowRank]] = {}
        problems = []
        for module, pair in self._factors().items():
            name = usual_name(f"{module}.weight")
            key, place = homes.get(name, ("", ()))
            shape = rules[key].their_shape(shapes[key]) if key else ()
            if name in (EMBED_NAME, HEAD_NAME) or len(shape) != 2:
                problems.append(f"{module} is no linear layer of it")
                continue
            (rank, wide), (tall, inner) = (pair[x].shape for x in "AB")
            if (tall, wide) != shape or rank != inner:
                problems.append(
                    f"{module} has factors {pair['A'].shape} and {pair['B'].shape} for "
                    f"a matrix {shape}"
                )
                continue
            found.setdefault(key, {})[place] = self._low_rank(module, pair)
        if problems:
            raise CheckpointError(
                f"{self.folder} does not fit {base.path}: {listed(problems)}"
            )
        leaves = dict(base.leaves)
        for key, factors in found.items():
            leaves[key] = _with_added(leaves[key], rules[key], factors)
        count = sum(map(len, found.values()))
        note = f"{count} matrices have the adapter {self.folder} merged into them"
        return dataclasses.replace(
            base,
            leaves=leaves,
            metadata={**base.metadata, "merged_adapter": str(self.folder)},
            notes=(*base.notes, *self.doubts, note),
            doubts=(*base.doubts, *self.doubts),
        )

    def _factors(self) -> dict[str, dict[str, StoredTensor]]:
        """Module -> "A" and "B" -> tensor."""
        pairs: dict[str, dict[str, StoredTensor]] = {}
        problems = []
        for name, tensor in list_file(self.folder / WEIGHTS).items():
            match = _FACTOR.fullmatch(name)
            if match is None:
                problems.append(f"{name} is no LoRA factor of a linear layer")
                continue
            module, side = match.groups()
            if side in pairs.setdefault(module, {}):
                problems.append(f"{name} is there twice")
            elif len(tensor.shape) != 2:
                problems.append(f"{name} has shape {tensor.shape}, not of a matrix")
            pairs[module][side] = tensor
            self._names[module, side] = name
        problems += [f"{m} has one factor only" for m in pairs if len(pairs[m]) < 2]
        if not pairs and not problems:
            problems = ["it is empty"]
        if problems:
            raise CheckpointError(
                f"{self.folder / WEIGHTS} is not supported: {listed(problems)}"
            )
        return pairs

    def _low_rank(self, module: str, pair: Mapping[str, StoredTensor]) -> LowRank:
        config, where = self._config, self._where
        rank = self._pattern("rank_pattern", module, whole)
        rank = whole(config, "r", 8, where) if rank is None else rank
        if rank != pair["A"].shape[0]:
            raise CheckpointError(
                f"{where} says rank {rank} for {module}, its factors have "
                f"{pair['A'].shape[0]}"
            )
        alpha = self._pattern("alpha_pattern", module, number)
        alpha = number(config, "lora_alpha", 8, where) if alpha is None else alpha
        rooted = config.get("use_rslora")
        if rooted not in (True, False, None):
            raise CheckpointError(f"{where} has use_rslora {rooted!r:.60}")
        a, b = (self._read(module, side, pair[side]) for side in "AB")
        return LowRank(a, b, alpha / (math.sqrt(rank) if rooted else rank))

    def _pattern(self, field: str, module: str, read) -> Any:
        """Value of the first pattern that the end of a module's name matches."""
        patterns = part_of(self._config, field, self._where)
        for pattern in patterns:
            try:
                if re.match(rf"(.*\.)?({pattern})$", module):
                    return read(patterns, pattern, 1, f"{self._where}: {field}")
            except re.error as error:
                raise CheckpointError(
                    f"{self._where}: {field} has {pattern!r:.60}, no regular "
                    f"expression: {error}"
                ) from error
        return None

    def _read(self, module: str, side: str, tensor: StoredTensor) -> np.ndarray:
        name = self._names[module, side]
        block = read_slice(name, tensor, tuple(slice(0, n) for n in tensor.shape))
        if self._check:
            check_finite(f"{self.folder}: {name}", block)
        return block.astype(np.float32)


def _with_added(
    leaf: Leaf, rule: Rule, factors: Mapping[tuple[int, ...], LowRank]
) -> Leaf:
    """A parameter with products added in float32; it is rounded once, when it is read.

    Args:
      leaf: of the base.
      rule: how its stored matrices lie in it.
      factors: by our index on the leading axes (layer, part).
    """
    sizes = rule.sizes(leaf.shape)
    letters = rule.order.replace(" ", "")
    turn = [letters.index(a) for a in rule.axes]

    @functools.lru_cache(maxsize=1)  # blocks of a layer follow one another
    def product(place: tuple[int, ...]) -> np.ndarray:
        a, b, scale = factors[place]
        stored = (np.float32(scale) * b) @ a
        return stored.reshape([sizes[x] for x in letters]).transpose(turn)

    def blocks(index: Index) -> Iterator[tuple[Index, np.ndarray]]:
        for where, block in leaf.blocks(index):
            # A block may name its place on the first axes only.
            cut = [
                slice(i.start + w.start, i.start + w.stop) for i, w in zip(index, where)
            ]
            cut += index[len(where) :]
            lead, inner = cut[: rule.lead], tuple(cut[rule.lead :])
            total = block.astype(np.float32)
            for at in np.ndindex(*[s.stop - s.start for s in lead]):
                place = tuple(s.start + i for s, i in zip(lead, at))
                if place in factors:
                    total[at] += product(place)[inner]
            yield where, total

    return Leaf(leaf.shape, leaf.dtype, blocks, leaf.origin)
