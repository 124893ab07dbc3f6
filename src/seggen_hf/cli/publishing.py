"""What a run made, on the Hub."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ..process.quiet import quiet_libraries
from .app import WrongArguments, command, dumps, say
from .options import Debug, Json


@command
def push(
    run: Annotated[Path, typer.Argument(help="A run folder, or the folder of one artefact in it.")],
    namespace: Annotated[str, typer.Option("--namespace", help="User or organization on the Hub.")],
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            help="text2mask, mask2img, segmenter, dataset (what is finished of these if absent), adapters, metrics, "
            "space; several with commas.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Repositories are NAMESPACE/NAME-ARTEFACT; the recipe's if absent.")
    ] = None,
    arm: Annotated[str | None, typer.Option("--arm", help="Arm of the segmenter; `synthetic` if it was run.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the segmenter; the first if absent.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make every repository private.")] = False,
    public: Annotated[
        bool,
        typer.Option(
            "--public",
            help="Publish too what was made of data that is not known to be public, with pictures of it; it is "
            "private otherwise.",
        ),
    ] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch to push to, made if absent.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Fill RUN/hub with what would be pushed, and stop.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
):
    """Publish what a run made on the Hub; killed or failed, the same command goes on."""
    if private and public:
        raise WrongArguments("--private and --public exclude each other.")
    quiet_libraries()
    from ..hub.client import connect
    from ..hub.publish import push_all, stage
    from ..hub.push_plan import plan_push
    from ..storage.names import WrongName

    wanted = [kind.strip() for value in only or () for kind in value.split(",") if kind.strip()]
    try:
        plan = plan_push(run, namespace, wanted, name, arm, seed)
    except WrongName as error:
        raise WrongArguments(str(error)) from error
    api = None if dry_run else connect(namespace)  # before anything is staged: a wrong token costs nothing
    artifacts = stage(plan, private, public)
    for why in dict.fromkeys(artifact.why_private for artifact in artifacts if artifact.why_private):
        repositories = ", ".join(artifact.repo_id for artifact in artifacts if artifact.why_private == why)
        say(f"Private: {repositories}, since {why}; --public makes them public")
    if api is None:
        for artifact in artifacts:
            say(
                f"{artifact.repo_type} {artifact.repo_id}{' (private)' if artifact.private else ''}: {artifact.folder}"
            )
        pushed = []
    else:
        pushed = push_all(api, artifacts, revision, say)
    if json:
        print(dumps([dataclasses.asdict(result) for result in pushed]))
