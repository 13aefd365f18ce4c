"""Words that settings of several pages choose from, and where a setting that they share comes from."""

BALANCE_FORMS = ("none", "switch", "switch_slots", "cv_squared", "mean_probability", "z_loss")
"""Forms of the balance loss that ask for no types of samples; `moelora.losses` has them."""

ROUTER_INITS = ("normal", "kaiming_uniform")
"""First values of a router."""

FACTOR_INITS = {"kaiming_uniform": True, "gaussian": "gaussian"}
"""First values of A, and what PEFT calls them."""

TRAIN_ROUTER = "ours, for the control with a random frozen router"
"""Where the setting ``train_router`` of every routed page comes from."""
