"""Side-by-side time and memory of the methods, PEFT and the public packages: ``python -m bench``. See docs/speed.md."""
