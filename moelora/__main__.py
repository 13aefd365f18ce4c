"""Run the command line: ``python -m moelora``."""

from moelora.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
