"""`python -m seggen_hf.cli`, which is `seggen`."""

from . import main

if __name__ == "__main__":
    main()
