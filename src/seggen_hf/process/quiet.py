"""Only what a user can act on: libraries keep their progress bars for loading to themselves."""

import warnings


def quiet_libraries() -> None:
    from datasets.utils.logging import disable_progress_bar
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    disable_progress_bar()
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="torch|diffusers|transformers|accelerate")
