"""The card of a data set on the Hub, which tells of all rounds: each synthesis that was published is one."""

import yaml

ROUND_MARK, ROUND_END = "<!-- round {} -->", "<!-- end of round {} -->"


def merge_rounds(there: str, ours: str) -> str:
    """Our card with the configs and sections of the other rounds that the card on the Hub lists.

    Our configs come first, and our first one is the default: the newest round.
    """
    header, body = _split_card(ours)
    old_header, old_body = _split_card(there)
    own = {config["config_name"] for config in header.get("configs", [])}
    others = [config for config in old_header.get("configs", []) if config["config_name"] not in own]
    for config in others:
        config.pop("default", None)
    header["configs"] = [*header.get("configs", []), *others]
    sections = []
    for config in others:
        start, end = ROUND_MARK.format(config["config_name"]), ROUND_END.format(config["config_name"])
        if start in old_body and end in old_body:
            sections.append(old_body[old_body.index(start) : old_body.index(end) + len(end)])
    mark = ROUND_END.format(header["configs"][0]["config_name"])
    body = body.replace(mark, "\n\n".join([mark, *sections]))
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip()}\n---\n{body}"


def _split_card(text: str) -> tuple[dict, str]:
    if not text.startswith("---\n"):
        return {}, text
    header, _, body = text[4:].partition("\n---\n")
    return yaml.safe_load(header) or {}, body
