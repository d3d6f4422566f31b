"""`python -m vae`, and the command `vae`."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 it failed, 2 wrong usage or input, 130 interrupted."""
    try:
        from vae.command.line import main as run
    except ModuleNotFoundError as error:
        print(f"vae: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # during the imports
        return 130
    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
