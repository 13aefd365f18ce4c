"""The search over configurations: Optuna studies whose trials are jobs, by ask and tell."""
