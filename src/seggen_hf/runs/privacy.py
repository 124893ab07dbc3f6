"""Whether what a run made may be public: what comes from data that is not stays private until the user says so."""

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import httpx

from ..config import SCENES, Recipe
from ..provenance import public_value
from ..storage.names import is_hub_id

TIMEOUT = 10.0  # seconds for the Hub's answer


def why_private(recipe: Recipe, source: str | None) -> str | None:
    """Why what a run of `recipe` made is private; None if all that it learned from is known to be public.

    Public are the built-in scenes, and what the Hub shows to anybody. It is asked once for each id, without a token,
    and no answer counts as no: to make a private thing public later is easy. Folders are never public, nor generators
    in them, which others trained on data that nobody here can name. A base model is no data.

    Args:
        source: what the name of the data was when it was read: `scenes`, `folder` or `Hub`.
    """
    name = recipe.data.dataset_name
    if name != SCENES or source not in (SCENES, None):
        if source == "folder" or not is_hub_id(name):
            return f"data.dataset_name is a folder, {public_value(name)}"
        if reason := _why_hidden(name, "dataset"):
            return f"data.dataset_name, {name}, {reason}"
    generators = {
        "synthesis.text2mask_model": recipe.synthesis.text2mask_model,
        "synthesis.mask2img_model": recipe.synthesis.mask2img_model,
        "mask2img.controlnet_model": recipe.mask2img.controlnet_model,
    }
    for setting, model in generators.items():
        if not model:
            continue
        if not is_hub_id(model):
            return f"{setting} is a folder, {public_value(model)}"
        if reason := _why_hidden(model, "model"):
            return f"{setting}, {model}, {reason}"
    return None


def _why_hidden(repo_id: str, repo_type: str) -> str | None:
    """Why not everybody may read a repository, or it is not known; None if everybody may."""
    try:
        info = HfApi(token=False, library_name="seggen_hf").repo_info(repo_id, repo_type=repo_type, timeout=TIMEOUT)
    except RepositoryNotFoundError:
        return "is not public on the Hub"
    except (HfHubHTTPError, httpx.TransportError, OSError) as error:
        return f"is not known to be public, since the Hub gave no answer ({type(error).__name__})"
    if info.private:
        return "is not public on the Hub"
    return "is gated on the Hub" if info.gated else None
