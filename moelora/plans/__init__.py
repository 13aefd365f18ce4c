"""From a suite to plans: one plain document per run that states everything about it, and the jobs that carry them."""

from moelora.plans.expand import expand
from moelora.plans.expansion import Expansion, Job, Run
from moelora.plans.hashing import plan_hash
from moelora.plans.resolve import resolve

__all__ = ["Expansion", "Job", "Run", "expand", "plan_hash", "resolve"]
