"""Filling a model with weights: from safetensors files, or random ones."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from runtime.models.decoder import CausalLm
from runtime.models.errors import WeightsError


def load_weights(model: CausalLm, folder: Path) -> None:
    """Read a rank's part of a checkpoint in Hugging Face's layout, and no more than that.

    Args:
        model: To fill; it is divided over ranks already.
        folder: Holds ``model.safetensors``, or several files and ``model.safetensors.index.json``.

    Raises:
        WeightsError: There are no safetensors, a file cannot be read, or a tensor is missing, unexpected, or of another
            shape.
    """
    with ExitStack() as stack:
        tensors = _open(folder, stack)
        parts = list(model.parts())
        _check_names(folder, {part.name for part in parts}, set(tensors))
        for part in parts:
            piece = tensors[part.name].get_slice(part.name)
            shape = tuple(piece.get_shape())
            if shape != part.shape:
                raise WeightsError(
                    f"{folder}: {part.name} has shape {list(shape)}, by config.json it is {list(part.shape)}"
                )
            if part.target.numel():  # padding of the vocabulary is not in the checkpoint
                part.fill(piece[part.index])


def random_weights(model: CausalLm, seed: int) -> None:
    """Fill a model with noise that keeps activations of order one: the same model for any number of ranks.

    Each tensor comes whole from a generator of its own, named by the tensor, and is then cut. Matrices have a standard
    deviation of one over the root of their inputs; norms are 1, biases small.

    Args:
        model: To fill.
        seed: Another seed, another model. Devices differ in their noise: CPU and GPU make different models.
    """
    dtype = model.lm_head.weight.dtype  # which is never in fp8: the same noise is drawn, then rounded
    for part in model.parts():
        target = part.target
        if len(part.shape) == 1 and not part.name.endswith(".bias"):
            target.fill_(1.0)
            continue
        digest = hashlib.blake2b(f"{seed}:{part.name}".encode(), digest_size=8).digest()
        generator = torch.Generator(target.device).manual_seed(int.from_bytes(digest, "little") >> 1)
        spread = part.shape[-1] ** -0.5 if len(part.shape) > 1 else 0.02
        tensor = torch.empty(part.shape, dtype=dtype, device=target.device)
        part.fill(tensor.normal_(0.0, spread, generator=generator)[part.index])


def _open(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Each tensor's name, and the open file that holds it."""
    files = _files(folder)
    opened: dict[str, Any] = {}
    for file in files:
        try:
            handle = stack.enter_context(safe_open(str(file), framework="pt", device="cpu"))
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{file}: cannot be read as safetensors ({error})") from None
        opened.update(dict.fromkeys(handle.keys(), handle))
    return opened


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{index}: not an index of safetensors ({error!r})") from None
        if any(Path(name).name != name for name in names):
            raise WeightsError(f"{index}: it names files outside its folder")
        return [folder / name for name in names]
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise WeightsError(
            f"{folder}: it holds pickled weights (.bin, .pt), which can run code and are not read; "
            "convert them to safetensors"
        )
    raise WeightsError(f"{folder}: no *.safetensors there")


def _check_names(folder: Path, wanted: set[str], found: set[str]) -> None:
    missing = sorted(wanted - found)
    if missing:
        raise WeightsError(f"{folder}: {_some(missing)} missing in the checkpoint; is this the model's config.json?")
    # Old checkpoints keep rotary tables; tied ones may hold the head twice.
    unexpected = sorted(
        name for name in found - wanted if not name.endswith(".rotary_emb.inv_freq") and name != "lm_head.weight"
    )
    if unexpected:
        raise WeightsError(f"{folder}: {_some(unexpected)} in the checkpoint, which the model does not have")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
