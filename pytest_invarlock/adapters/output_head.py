"""The output head: what a model feeds into it, and whether it alone makes the model's logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pytest_invarlock.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel


class _HeadReached(BaseException):
    """Carries the head's input out of the model; no ``except Exception`` there holds it up."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value


def output_head(model: PreTrainedModel) -> torch.nn.Module | None:
    """The module that turns final states into logits, or None where the model names none."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return head if isinstance(head, torch.nn.Module) else None


def final_states(model: PreTrainedModel, **inputs: Any) -> torch.Tensor:
    """What the model feeds into its output head, such as ``hidden`` in ``lm_head(hidden)``.

    The forward pass ends where the head would begin: the logits of a batch never exist.

    Args:
        model: in eval mode, with an output head.
        **inputs: the model's own, such as ``input_ids`` int64 (batch, length) and
            ``attention_mask``; seq2seq models also take ``decoder_input_ids`` or ``labels``.

    Returns:
        (batch, length, d) in the model's dtype, without gradient; for seq2seq models the length is
        the decoder's. Apply `output_head` to them, where `head_reproduces_logits`.

    Raises:
        AdapterError: the model has no output head, or does not pass sequences of states to it.
    """
    states = _captured(model, inputs)
    if states is None:
        raise AdapterError(
            f"{type(model).__name__} passes no final states through an output head",
            remedy="take the logits of the whole model",
            code="NO_OUTPUT_HEAD",
        )
    return states


@torch.inference_mode()
def head_reproduces_logits(model: PreTrainedModel, inputs: Mapping[str, Any]) -> bool:
    """Whether the output head alone turns `final_states` into the model's logits, bit for bit.

    Not so where logits are scaled, capped or shifted after the head, where there is no head, or
    where it takes anything but sequences of states; then whole-model logits must be taken. It is
    tried on the first row of ``inputs``: tensors (batch, …), as the model takes them; values that
    are no tensors are handed on as they are.
    """
    first = {
        name: value[:1] if isinstance(value, torch.Tensor) else value
        for name, value in inputs.items()
    }
    head = output_head(model)
    states = _captured(model, first)
    if head is None or states is None:
        return False
    logits = model(**first).logits
    return torch.equal(head(states).nan_to_num(), logits.nan_to_num())


@torch.no_grad()
def _captured(model: PreTrainedModel, inputs: Mapping[str, Any]) -> torch.Tensor | None:
    """The head's input; None where there is no head, or it takes no (batch, length, d)."""
    head = output_head(model)
    if head is None:
        return None

    def stop(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _HeadReached(next(iter((*args, *kwargs.values())), None))

    handle = head.register_forward_pre_hook(stop, with_kwargs=True, prepend=True)
    try:
        model(**inputs)
    except _HeadReached as reached:
        return _states(reached.value)
    finally:
        handle.remove()
    return None


def _states(value: object) -> torch.Tensor | None:
    # A head that is also the input embedding is reached with token ids.
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim == 3:
        return value
    return None
