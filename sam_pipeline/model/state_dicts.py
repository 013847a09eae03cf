"""Reading a checkpoint's tensors, whatever wrote it, and putting them into a model."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from sam_pipeline.errors import CheckpointError
from sam_pipeline.model.huggingface import from_huggingface, is_huggingface
from sam_pipeline.safety.clean_text import one_line

_NAMES_SHOWN = 3


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a checkpoint with the official parameter names. No code in the file is run.

    Args:
        path: a ``.pth`` or ``.pt`` file (the official ones), a ``.safetensors`` file, or a folder with a Hugging Face
            ``model.safetensors``. Hugging Face parameter names are converted.

    Returns:
        Parameter name → tensor on the CPU; floating ones are float32. They may be backed by the file, so it must not
        be changed in place while they live.

    Raises:
        CheckpointError: missing, of another format, corrupt, holding more than tensors, or larger in memory than a file
            of its size can be.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"checkpoint not found: {path}")
    if path.suffix == ".safetensors":
        state_dict = _load_safetensors(path)
    elif path.suffix in (".pth", ".pt"):
        state_dict = _load_pickle(path)
    else:
        raise CheckpointError(f"checkpoint must be .pth, .pt, .safetensors or a Hugging Face folder, got {path}")
    if is_huggingface(state_dict):
        state_dict = from_huggingface(state_dict)
    return {name: value.float() if value.is_floating_point() else value for name, value in state_dict.items()}


def assign_state_dict(module: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Make tensors the parameters and buffers of a module, without copying them.

    Args:
        module: may be on the meta device.
        state_dict: exactly the module's names and shapes.
        source: what the tensors are and what they should fit, for the message.

    Raises:
        CheckpointError: names or shapes differ.
    """
    expected = module.state_dict()
    missing = [name for name in expected if name not in state_dict]
    unexpected = [name for name in state_dict if name not in expected]
    reshaped = [name for name in expected if name in state_dict and expected[name].shape != state_dict[name].shape]
    if missing or unexpected or reshaped:
        differences = [_summary("missing", missing), _summary("unexpected", unexpected)]
        differences.append(_summary("of another shape", reshaped))
        raise CheckpointError(
            f"{source}: not the weights of this architecture ({'; '.join(filter(None, differences))})"
        )
    module.load_state_dict(state_dict, strict=True, assign=True)


def _summary(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = ", …" if len(names) > _NAMES_SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:_NAMES_SHOWN])}{more}"


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {one_line(error)}") from error


def _load_pickle(path: Path) -> dict[str, Tensor]:
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            _refuse_compressed(path)
        # Only files in torch's zip format can be mapped into memory; older ones are read whole.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} is corrupt, or holds code or objects beside tensors; it was not run") from error
    except Exception as error:  # a corrupt file can fail anywhere in the unpickler
        raise CheckpointError(f"{path} cannot be read as a torch checkpoint: {one_line(error)}") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(f"{path} is not a state dict: expected parameter names with tensors")
    _refuse_inflated(loaded, path)
    return loaded


def _refuse_compressed(path: Path) -> None:
    """Torch never compresses; a file that is compressed may unpack to any size."""
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise CheckpointError(f"{path} is compressed, which no torch checkpoint is; it was not unpacked")


def _refuse_inflated(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A stride of 0 makes a tensor of any size out of a few bytes, which a copy to float32 would need memory for."""
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if num_bytes > 2 * path.stat().st_size:  # twice, because tied parameters are stored once
        raise CheckpointError(f"{path} names tensors of {num_bytes} bytes, more than it can hold")
