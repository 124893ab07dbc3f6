"""Only what a user can act on: libraries keep their progress bars for loading to themselves."""

import sys
import warnings


def quiet_libraries() -> None:
    """Of commands and scripts: what libraries warn of is kept back, and our own warnings are a line each."""
    from datasets.utils.logging import disable_progress_bar
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    disable_progress_bar()
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="torch|diffusers|transformers|accelerate")
    warnings.showwarning = _tell


def _tell(message, category, filename, lineno, file=None, line=None) -> None:
    print(f"warning: {message}", file=file or sys.stderr)
