"""What routers and experts did: a recorder for any model with our routers, and how alike its experts are.

Around any code that runs the model::

    with RoutingRecorder(model) as recorder:
        model(**batch)
    recorder.routers()           # load, entropy, dead experts of each router
    expert_similarity(model)     # cosines of the experts' increments
"""

from moelora.evaluation.diagnostics.recorder import DEAD_SHARE, RoutingRecorder
from moelora.evaluation.diagnostics.similarity import expert_similarity

__all__ = ["DEAD_SHARE", "RoutingRecorder", "expert_similarity"]
