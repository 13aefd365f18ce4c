"""Prompts of the protocols that lm-eval does not know. Pure functions from questions to text.

``label_logits`` has those of MoE-PEFT, ``generate_regex`` those of LLM-Adapters. The fixed wording of each stands in
its module's ``WORDING``: a few phrases that are part of the protocol, since another phrase gives another score.
``posing`` turns a question into an example.
"""
