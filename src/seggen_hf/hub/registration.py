"""`register_pipelines`: diffusers' bare `DiffusionPipeline.from_pretrained` finds the installed classes."""

from collections.abc import Callable

NAMES = ("Text2MaskPipeline", "Mask2ImgPipeline", "Flux2Text2MaskPipeline", "Flux2Mask2ImgPipeline")
_MARK = "_seggen_hf_original"


def register_pipelines() -> None:
    """Let `DiffusionPipeline.from_pretrained` answer for our repositories with the installed classes.

    Afterwards it needs no `trust_remote_code` for them and runs no code of the repository, whatever flag is given.
    Repositories of other classes load as before; calling it again changes nothing.

    It wraps the private function of diffusers (0.42) that imports a repository's class: there is no public place to
    register one. Without this call diffusers refuses our repositories, or runs their code behind the user's flag.
    """
    import diffusers
    from diffusers.pipelines import pipeline_loading_utils

    import seggen_hf.pipelines

    classes = {name: getattr(seggen_hf.pipelines, name) for name in NAMES}
    for name, pipeline_class in classes.items():
        setattr(diffusers, name, pipeline_class)  # an index that names the class alone
    if hasattr(pipeline_loading_utils.get_class_from_dynamic_module, _MARK):
        return
    load: Callable = pipeline_loading_utils.get_class_from_dynamic_module

    def get_class_from_dynamic_module(name_or_path, module_file, *args, class_name=None, **kwargs):
        if class_name in classes:
            return classes[class_name]
        return load(name_or_path, module_file, *args, class_name=class_name, **kwargs)

    setattr(get_class_from_dynamic_module, _MARK, load)
    pipeline_loading_utils.get_class_from_dynamic_module = get_class_from_dynamic_module
