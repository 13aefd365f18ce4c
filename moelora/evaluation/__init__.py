"""Evaluation: predictions, metrics, and how tokens were routed."""
