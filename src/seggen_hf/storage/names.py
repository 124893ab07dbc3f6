"""Names that become one part of a path or of a Hub id; whatever would be more than that is refused."""

import re
from pathlib import Path

MAX_NAME = 96  # characters; the Hub's limit
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE | re.ASCII)  # devices of Windows


class WrongName(ValueError):
    """A name that would lead out of its folder, or that the Hub or a file system refuses."""


def check_name(name: str, what: str) -> str:
    """`name`, which is safe as a folder's or a repository's name on every system.

    Args:
        what: what is called so, at the beginning of the error: `--name`, `data.test_splits`.
    Raises: `WrongName`, which says what a name may be.
    """
    rule = None
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name, re.ASCII):
        rule = "consist of letters, digits, `-`, `_` and `.`"
    elif len(name) > MAX_NAME:
        rule = f"have at most {MAX_NAME} characters"
    elif not re.fullmatch(r"\w(.*\w)?", name, re.ASCII):
        rule = "begin and end with a letter, a digit or `_`"
    elif "--" in name or ".." in name:
        rule = "have no `--` and no `..`"
    elif name.lower().endswith((".git", ".lock")):
        rule = "not end in .git or .lock"
    elif RESERVED.fullmatch(name):
        rule = "not be the name of a device"
    if rule:
        shown = repr(name) if len(repr(name)) <= 2 * MAX_NAME else f"{repr(name)[:MAX_NAME]}..."
        raise WrongName(f"{what} is {shown}; it names a folder or a repository, so it must {rule}.")
    return name


def is_hub_id(text: str) -> bool:
    """Whether `text` has the form OWNER/NAME of the Hub and is no folder here."""
    owner, slash, name = text.partition("/")
    try:
        return bool(slash and check_name(owner, "owner") and check_name(name, "name")) and not Path(text).exists()
    except WrongName:
        return False
