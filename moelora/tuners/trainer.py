"""transformers' Trainer with the balance loss added where it can be added correctly.

Inside the model's forward it cannot: the model does not know the number of accumulation steps.
"""

from typing import Any

import torch
from peft import PeftModel
from transformers import Trainer

from moelora.tuners.routing import balance_loss

# Heads whose loss divides by the num_items_in_batch that the Trainer hands down.
COUNTING_HEADS = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")


class BalanceTrainer(Trainer):
    """A Trainer that adds the tuner's balance loss to the task loss in training.

    Under gradient accumulation each micro-batch's balance loss counts as its share, so a loss that is
    linear in the batch gives the update of one large batch. The balancing forms are not linear in the batch
    (see `moelora.losses`): state the micro-batch size with such results.

    It also mends heads that take ``num_items_in_batch`` and ignore it (BERT's): the Trainer would leave their
    loss undivided and multiply the gradient by the number of accumulation steps (transformers issue 47688).

    Attributes:
        last_balance_loss: Balance loss of the latest micro-batch, with its coefficient; None without one.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.last_balance_loss: torch.Tensor | None = None
        model = self.accelerator.unwrap_model(self.model)
        head = type(model.get_base_model() if isinstance(model, PeftModel) else model).__name__
        if not head.endswith(COUNTING_HEADS):
            self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the task loss plus the balance loss of this micro-batch."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        balance = balance_loss(model) if model.training else None
        self.last_balance_loss = None if balance is None else balance.detach()
        if balance is not None:
            loss = loss + (balance / self._undone_division(num_items_in_batch)).to(loss.device)
        return (loss, outputs) if return_outputs else loss

    def _undone_division(self, num_items_in_batch: torch.Tensor | int | None) -> int:
        """Return what the Trainer will not divide by any more, because it takes the loss to be scaled."""
        scaled = self.loss_is_scaled_for_ga
        if scaled is None:
            scaled = (
                self.model_accepts_loss_kwargs and num_items_in_batch is not None
            ) or self.compute_loss_func is not None
        return self.current_gradient_accumulation_steps if scaled else 1
