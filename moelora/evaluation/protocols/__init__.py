"""The protocols, one module each: a decoder and tasks in, metrics and items out."""
