"""What a model unlearned while it was fine-tuned: the run's model beside the base alone, on what it was not trained on.

Decoders: the loss on general text. Encoders: a linear probe for each of some other tasks, fitted on the hidden states
of the base and applied, as it is, to those of the tuned model. Nothing is trained or drawn here, and no other number of
a record depends on it.
"""

from moelora.evaluation.forgetting.measure import measure_forgetting

__all__ = ["measure_forgetting"]
