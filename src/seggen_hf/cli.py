"""`seggen`: one command per stage; turns errors into one line and an exit status.

Exit status: 0 done, 1 failed in use, 2 wrong arguments, 130 ended by Ctrl-C, 143 by SIGTERM.
"""

import dataclasses
import functools
import inspect
import json
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from . import __version__
from .quiet import quiet_libraries
from .stopping import GOES_ON, exit_status, termination_raises

app = typer.Typer(
    help="SegGen: captions become masks, masks become images, and a segmenter trained with them becomes better.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Recipe = Annotated[str, typer.Argument(help="A recipe file, the name of a built-in recipe, or a run folder.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="section.key=value, over the recipe. Repeat it for more.")
]
Preset = Annotated[
    str | None, typer.Option("--preset", help="Settings that fit a card: 12gb, 16gb, 24gb, 48gb or 80gb.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder; runs/NAME if not given.")]
Redo = Annotated[
    list[str] | None, typer.Option("--redo", help="Make a stage anew, with all that reads it. Repeat it for more.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Split to read. Repeat it for more.")]


# The options of every command that reads a SOURCE, under the names that load_records has for them.
READING = {
    "labels": (str | None, typer.Option(help="Label file, `ade20k` or `coco`; read from the source if absent.")),
    "image_column": (str | None, typer.Option("--image-column", "--image_column", help="Guessed if absent.")),
    "mask_column": (str | None, typer.Option("--mask-column", "--mask_column", help="Guessed if absent.")),
    "zero_is_void": (
        bool,
        typer.Option("--zero-is-void", "--zero_is_void", help="The masks hold ids 1..C, and 0 is void."),
    ),
    "config_name": (str | None, typer.Option("--config-name", help="Config of a Hub data set with several.")),
    "revision": (str | None, typer.Option("--revision", help="Commit, tag or branch of a Hub data set.")),
    "media_roots": (
        list[str] | None,
        typer.Option(
            "--media-roots",
            "--media_roots",
            help="Folder beside the source that its files may lie in (links, COCO's file_name). Repeat it for more.",
        ),
    ),
}


def reads_source(function):
    """Add the options of `READING` to a command, which gets them as the dict `reading`."""

    @functools.wraps(function)
    def run(**arguments):
        reading = {name: arguments.pop(name) for name in READING}
        return function(**arguments, reading=reading)

    signature = inspect.signature(function)
    own = [parameter for name, parameter in signature.parameters.items() if name != "reading"]
    added = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if kind is bool else None,
            annotation=Annotated[kind, option],
        )
        for name, (kind, option) in READING.items()
    ]
    run.__signature__ = signature.replace(parameters=[*own, *added])
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *added]}
    return run


class WrongArguments(ValueError):
    """What the user typed cannot be: exit status 2."""


def command(function):
    """Register `function` under its name; its errors become one line on stderr and an exit status."""

    @functools.wraps(function)
    def run(*args, debug: bool = False, **kwargs):
        try:
            with termination_raises():
                return function(*args, debug=debug, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt as stop:
            _fail(str(stop) or GOES_ON, exit_status(stop))
        except Exception as error:  # the one place where everything ends as a line
            if debug:
                traceback.print_exc()
            told = " ".join(str(error).split()) or type(error).__name__
            if not isinstance(error, (ValueError, OSError, FloatingPointError)):
                told = f"{type(error).__name__}: {told} (--debug shows where)"
            _fail(told, 2 if isinstance(error, WrongArguments) else 1)

    return app.command(name=function.__name__.replace("_", "-"))(run)


def _fail(told: str, status: int) -> None:
    print(f"error: {told}", file=sys.stderr)
    raise typer.Exit(status)


def _say(line: str) -> None:
    print(f"== {line}", file=sys.stderr, flush=True)


def _recipe_file(recipe: str) -> str | Path:
    """What `load_recipe` takes: of a run folder its own recipe."""
    file = Path(recipe) / "recipe.yaml"
    return file if file.is_file() else recipe


def _read_recipe(recipe: str, settings: list[str] | None, out: Path | None):
    """The recipe and its run folder; a run folder stands for its own recipe."""
    from .config import load_recipe

    folder, file = Path(recipe), _recipe_file(recipe)
    try:
        loaded = load_recipe(file, settings or ())
        if file != recipe:
            return loaded, out or folder
    except ValueError as error:
        raise WrongArguments(str(error)) from error
    return loaded, out or Path("runs") / loaded.name


def _with_preset(settings: list[str] | None, preset: str | None) -> list[str]:
    return [*(settings or ()), *([f"preset={preset}"] if preset else ())]


def _shown_recipe(recipe: str) -> str:
    """A recipe as cards name it: a file by its last part."""
    return Path(recipe).name if Path(recipe).is_file() else recipe


def _run(recipe, settings, out, only=None, first=None, last=None, redo=None, as_json=False, called=None) -> None:
    """Run stages. `called`: the command's words, with which results and cards say what was called; `seggen run RECIPE`
    with the options that are given if absent."""
    loaded, folder = _read_recipe(recipe, settings, out)
    quiet_libraries()
    from .config import list_overridden
    from .provenance import public_command
    from .runs.runner import run_stages, select_kinds
    from .runs.scores import read_results

    try:
        kinds = select_kinds(only or (), first, last)
        select_kinds(redo or ())
    except ValueError as error:
        raise WrongArguments(str(error)) from error
    options = [("--out", out), *(() if called else (("--only", name) for name in only or ()))]
    options += [("--from", first), ("--until", last), *(("--redo", name) for name in redo or ())]
    words = ["seggen", *(called or ["run", _shown_recipe(recipe)])]
    told = public_command(*words, settings=list_overridden(loaded, settings or ()), options=options)
    run_stages(loaded, folder, kinds, redo or (), command=told, say=_say)
    results = read_results(folder)
    if as_json:
        print(json.dumps({"run": str(folder), "results": results}, indent=2))
    elif results and {"evaluate", "report"} & set(kinds):
        print(_table(results))
        print(f"\n{results['verdict']}")
        if (folder / "report.html").is_file():
            print(f"Report: {folder / 'report.html'}")


def _plan(recipe, settings, gpus=None, processes=1, num_records=None, measure=False, as_json=False) -> None:
    try:
        from .plan.gpus import choose_gpus

        cards = choose_gpus(gpus)
    except ValueError as error:
        raise WrongArguments(str(error)) from error
    loaded, _ = _read_recipe(recipe, settings, None)
    quiet_libraries()
    from .config import preset_of
    from .config.presets import MEMORY, preset_lines
    from .runs.preflight import plan_run, preset_that_fits

    planned, labels = plan_run(loaded, processes, num_records)
    if preset := preset_of(_recipe_file(recipe), settings or ()):
        planned.notes += [
            f"preset {preset}, which leaves a tenth of {MEMORY[preset]} GiB free with SDXL at 768 pixels:"
        ]
        planned.notes += [f"  {line}" for line in preset_lines(preset)]
    fitting = {
        name: preset_that_fits(_recipe_file(recipe), settings or (), planned, labels, card) if gpus else None
        for name, card in cards.items()
    }
    if not as_json:
        print(planned.to_text(cards, fitting))
    measured = []
    if measure:
        from .plan.measure import describe_machine, measure_run  # all trainings: seconds to import

        measured = measure_run(loaded, labels, planned, _say)
    if as_json:
        found = planned.to_dict(cards, fitting)
        if measure:
            found |= {"machine": describe_machine(), "measured": [entry.to_dict() for entry in measured]}
        print(_dumps(found))
    elif measured:
        print("\n".join(["", *(entry.to_text() for entry in measured)]))
    if any(entry.failure is not None or not entry.is_finite for entry in measured):
        raise typer.Exit(1)


def _table(results: dict) -> str:
    """The headline score of each arm and test split as text: the mean over seeds, and their range where there are
    several."""
    from .runs.scores import percent, scores_by_arm
    from .tasks import task_of

    scores = scores_by_arm(results["scores"])
    splits = list(dict.fromkeys(row["split"] for row in results["scores"]))
    lines = [[f"{task_of(results['scores']).metric_name}, %", *splits]]
    for arm, by_split in scores.items():
        cells = []
        for split in splits:
            values = list(by_split.get(split, {}).values())
            spread = f" (range {percent(max(values) - min(values))})" if len(values) > 1 else ""
            cells.append(f"{percent(sum(values) / len(values))}{spread}" if values else "–")
        lines.append([arm, *cells])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


@command
def quickstart(
    settings: Settings = None, out: Out = None, redo: Redo = None, json: Json = False, debug: Debug = False
):
    """The whole loop on the built-in scenes, on a CPU, in minutes: ends with a table and a report."""
    _run("quickstart", settings, out, redo=redo, as_json=json, called=["quickstart"])


@command
def run(
    recipe: Recipe,
    settings: Settings = None,
    preset: Preset = None,
    out: Out = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Run just this stage. Repeat it for more.")] = None,
    first: Annotated[str | None, typer.Option("--from", help="First stage to run.")] = None,
    last: Annotated[str | None, typer.Option("--until", help="Last stage to run.")] = None,
    redo: Redo = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what `seggen plan` prints, and stop.")] = False,
    json: Json = False,
    debug: Debug = False,
):
    """The whole loop of a recipe; each finished stage is kept and skipped on the next call.

    Stages: caption, text2mask, mask2img, synthesize, filter (for arm filtered), segmenter (every arm and seed),
    evaluate, report.
    """
    settings = _with_preset(settings, preset)
    if dry_run:
        _plan(recipe, settings, as_json=json)
    else:
        _run(recipe, settings, out, only, first, last, redo, json)


@command
def plan(
    recipe: Recipe,
    settings: Settings = None,
    preset: Preset = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            "--gpu", help="Card to plan for, such as rtx4090 or h100. Repeat it for more; several if absent."
        ),
    ] = None,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Cards that work together.")] = 1,
    records: Annotated[
        int | None, typer.Option("--records", min=1, help="Real training records, where the data is not here.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run a few steps of every stage here, with random weights.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
):
    """What a run needs and takes: memory, disk, hours, and whether it fits a card; nothing is loaded or written.

    With --measure every stage is also run for a few steps on this machine: exit status 1 if one of them fails.
    """
    _plan(recipe, _with_preset(settings, preset), gpu, processes, records, measure, json)


@command
def train(
    what: Annotated[str, typer.Argument(help="text2mask, mask2img or segmenter (every arm and seed).")],
    recipe: Recipe,
    settings: Settings = None,
    preset: Preset = None,
    out: Out = None,
    redo: Redo = None,
    debug: Debug = False,
):
    """One training of a recipe; what it reads must be finished. `training/*.py` train on several GPUs."""
    if what not in ("text2mask", "mask2img", "segmenter"):
        raise WrongArguments(f"There is no training {what!r}; there are text2mask, mask2img and segmenter.")
    settings = _with_preset(settings, preset)
    _run(recipe, settings, out, only=[what], redo=redo, called=["train", what, _shown_recipe(recipe)])


@command
@reads_source
def doctor(
    source: Annotated[str, typer.Argument(help="Folder, Hub id or `scenes`.")],
    split: Splits = None,
    fix: Annotated[Path | None, typer.Option("--fix", help="Write a clean copy into this new folder.")] = None,
    json: Json = False,
    debug: Debug = False,
    *,
    reading: dict,
):
    """Read a data set and say what is wrong with it; exit status 1 if something keeps it from being used."""
    quiet_libraries()
    from .data.doctor import check_output_dir, examine
    from .data.doctor import fix as write_clean_copy

    if fix is not None:
        check_output_dir(source, fix)
    found = examine(source, split or None, **reading)
    print(_dumps(found.to_dict()) if json else found.to_text())
    if fix is not None:
        copy = write_clean_copy(source, fix, split or None, **reading)
        written = ", ".join(f"{number} records of {name}" for name, number in copy.written.items())
        _say(f"The clean copy is in {copy.folder}: {written}; {len(copy.left_out)} left out")
    elif found.problems:
        raise typer.Exit(1)


@command
@reads_source
def caption(
    source: Annotated[str, typer.Argument(help="Folder, Hub id or `scenes`.")],
    out: Annotated[Path, typer.Argument(help="Folder for the records with captions (a `datasets` folder).")],
    split: Annotated[str, typer.Option("--split", help="Split to caption.")] = "train",
    captioner: Annotated[
        str, typer.Option("--captioner", help="`template`, or a captioning model's id.")
    ] = "template",
    prompt: Annotated[str | None, typer.Option("--prompt", help="Question asked of a chat-style model.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images captioned at once.")] = 8,
    recaption: Annotated[bool, typer.Option("--recaption", help="Replace captions that are there.")] = False,
    debug: Debug = False,
    *,
    reading: dict,
):
    """Write the records of a data set with captions; interrupted, it goes on where it was."""
    quiet_libraries()
    from .config import CaptionConfig
    from .data.captions import add_captions
    from .data.schema import labels_of, save_dataset
    from .data.sources.load import load_records
    from .folders import CAPTIONS, check_folder, claim_folder

    config = CaptionConfig(
        captioner=captioner, caption_prompt=prompt, caption_batch_size=batch_size, recaption=recaption
    )
    if (out / "state.json").is_file():
        raise ValueError(f"{out} holds records already; name another folder.")
    check_folder(out, CAPTIONS)
    records = load_records(source, split, **reading)
    claim_folder(out, CAPTIONS)
    captioned = add_captions(records, labels_of(records), config, progress_file=out / "progress.jsonl")
    save_dataset(captioned, out)
    (out / "progress.jsonl").unlink(missing_ok=True)
    _say(f"{len(captioned)} records with captions are in {out}")


@command
@reads_source
def synthesize(
    source: Annotated[str, typer.Argument(help="Real records with captions: folder, Hub id or `scenes`.")],
    out: Annotated[Path, typer.Argument(help="Folder for the synthetic records.")],
    mask2img: Annotated[str, typer.Option("--mask2img", help="Folder or Hub id of a Mask2Img pipeline.")],
    text2mask: Annotated[
        str | None, typer.Option("--text2mask", help="The same for Text2Mask; MaskSyn needs it.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Split of the real records.")] = "train",
    height: Annotated[int | None, typer.Option("--height", help="Height of the samples in pixels.")] = None,
    width: Annotated[int | None, typer.Option("--width", help="Width of the samples in pixels.")] = None,
    settings: Settings = None,
    debug: Debug = False,
    *,
    reading: dict,
):
    """Make synthetic records with finished generators. --set synthesis.imgsyn_variants=4 and the like."""
    from .config import SynthesisConfig
    from .config.values import build

    try:
        values = _synthesis_settings(settings) | {"output_dir": str(out)}
        values |= {"mask2img_model": mask2img, "text2mask_model": text2mask}
        if text2mask is None:
            values.setdefault("masksyn_variants", 0)
        config = build(SynthesisConfig, values, "--set")
    except ValueError as error:
        raise WrongArguments(str(error)) from error
    from .folders import SYNTHESIS, check_folder

    check_folder(out, SYNTHESIS)
    quiet_libraries()
    from .data.sources.load import load_records
    from .pipelines import Mask2ImgPipeline, Text2MaskPipeline
    from .synthesis import synthesize as make_records
    from .synthesis.generators import open_pipeline

    made = make_records(
        load_records(source, split, **reading),
        out,
        config,
        mask2img=open_pipeline(Mask2ImgPipeline, mask2img, config),
        text2mask=open_pipeline(Text2MaskPipeline, text2mask, config) if text2mask else None,
        height=height,
        width=width,
        provenance={"data": source, "mask2img": mask2img} | ({"text2mask": text2mask} if text2mask else {}),
    )
    _say(f"{len(made)} synthetic records are in {out}")


def _synthesis_settings(settings: list[str] | None) -> dict:
    """`synthesis.name=value` or `name=value`, the value in YAML."""
    from .config.values import parse_value

    values = {}
    for setting in settings or ():
        name, equals, text = setting.partition("=")
        if not equals:
            raise WrongArguments(f"--set {setting}: write name=value, such as imgsyn_variants=4.")
        values[name.strip().removeprefix("synthesis.")] = parse_value(text, f"--set {setting}")
    return values


@command
def filter(
    run: Annotated[Path, typer.Argument(help="A run folder with finished synthetic records and arm real.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for what is kept; RUN/filtered if absent.")] = None,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", help="A pixel is void above this many times its label's mean loss.")
    ] = None,
    min_alignment: Annotated[
        float | None, typer.Option("--min-alignment", help="Drop records that keep less of their labelled pixels.")
    ] = None,
    debug: Debug = False,
):
    """Void what the segmenter of real records does not see in synthetic ones; arm `filtered` trains with the rest."""
    recipe = _recipe_of(run)
    if recipe is None:
        raise WrongArguments(f"{run} is no run folder (recipe.yaml).")
    given = {"tolerance": tolerance, "min_alignment": min_alignment}
    try:
        settings = dataclasses.replace(recipe.filter, **{k: v for k, v in given.items() if v is not None})
    except ValueError as error:
        raise WrongArguments(str(error)) from error
    if "filtered" in recipe.evaluation.arms and settings == recipe.filter and out is None:
        _run(str(run), [], None, only=["filter"])
        return
    quiet_libraries()
    from .folders import FILTERED, check_folder
    from .runs.lock import lock_run
    from .runs.makers import filter_run
    from .synthesis.agreement_filter import read_summary

    folder = out or run / "filtered"
    check_folder(folder, FILTERED)
    with lock_run(run):
        kept = filter_run(dataclasses.replace(recipe, filter=settings), run, folder)
    alignment = read_summary(folder)["mean_alignment"]
    _say(f"{len(kept)} records, of whose labelled pixels {alignment:.1%} are kept, are in {folder}")


@command
@reads_source
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder, or one segmenter (a folder with config.json).")],
    source: Annotated[str | None, typer.Argument(help="Data to score on; a run's own test splits if absent.")] = None,
    split: Splits = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images per forward pass.")] = 8,
    task: Annotated[
        str | None, typer.Option("--task", help="semantic, panoptic or instance; that of the run's recipe if absent.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
    *,
    reading: dict,
):
    """Score a segmenter, or every segmenter of a run."""
    from .tasks import TASKS

    if task is not None and task not in TASKS:
        raise WrongArguments(f"There is no task {task!r}; there are {', '.join(TASKS)}.")
    is_run = (run / "recipe.yaml").is_file()
    if not is_run and not (run / "config.json").is_file():
        raise WrongArguments(f"{run} is neither a run folder (recipe.yaml) nor a segmenter (config.json).")
    if is_run and source is None:
        if split or task:
            name = "--split" if split else "--task"
            raise WrongArguments(f"{name} needs a SOURCE; a run is scored on its own test splits, by its own task.")
        _run(str(run), [], None, only=["evaluate"], as_json=json)
        return
    if source is None:
        raise WrongArguments("A single segmenter needs a SOURCE to be scored on.")
    quiet_libraries()
    from .config import EvaluationConfig
    from .data.sources.load import load_records
    from .runs.scores import percent, score_folder

    folders = sorted(path.parent for path in run.glob("segmenter-*/seed-*/config.json")) if is_run else [run]
    if not folders:
        raise ValueError(f"{run} has no finished segmenter.")
    recipe = _recipe_of(run)
    task = task or (recipe.data.task if recipe else "semantic")
    settings = dataclasses.replace(recipe.evaluation if recipe else EvaluationConfig(), eval_batch_size=batch_size)
    metric, metric_name = TASKS[task].metric, TASKS[task].metric_name
    rows = []
    for name in split or ["test"]:
        records = load_records(source, name, **reading)
        for folder in folders:
            scores = score_folder(folder, records, settings, task)
            rows.append({"segmenter": str(folder), "dataset": source, "split": name} | scores)
            if not json:
                told = f"{metric_name} {percent(scores[metric])} %"
                print(f"{folder}  {source} ({name}, {scores['num_images']} images): {told}")
    if json:
        print(_dumps(rows))
    else:
        print(rows[0]["protocol"])


def _recipe_of(folder: Path):
    """The recipe of a run, also for a segmenter in the run; None for a segmenter that lies elsewhere."""
    from .config import load_recipe

    for run in (folder, folder.resolve().parent.parent):
        if (run / "recipe.yaml").is_file():
            return load_recipe(run / "recipe.yaml")
    return None


@command
def report(run: Annotated[Path, typer.Argument(help="A run folder.")], debug: Debug = False):
    """Write report.md and report.html of a run folder, from what is finished there."""
    quiet_libraries()
    from .runs.report import write_report

    print(write_report(run))


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
    from .hub.client import connect
    from .hub.publish import plan_push, push_all, stage
    from .names import WrongName

    wanted = [kind.strip() for value in only or () for kind in value.split(",") if kind.strip()]
    try:
        plan = plan_push(run, namespace, wanted, name, arm, seed)
    except WrongName as error:
        raise WrongArguments(str(error)) from error
    api = None if dry_run else connect(namespace)  # before anything is staged: a wrong token costs nothing
    artifacts = stage(plan, private, public)
    for why in dict.fromkeys(artifact.why_private for artifact in artifacts if artifact.why_private):
        told = ", ".join(artifact.repo_id for artifact in artifacts if artifact.why_private == why)
        _say(f"Private: {told}, since {why}; --public makes them public")
    if dry_run:
        for artifact in artifacts:
            _say(
                f"{artifact.repo_type} {artifact.repo_id}{' (private)' if artifact.private else ''}: {artifact.folder}"
            )
        pushed = []
    else:
        pushed = push_all(api, artifacts, revision, _say)
    if json:
        print(_dumps([dataclasses.asdict(result) for result in pushed]))


@command
def demo(
    run: Annotated[Path | None, typer.Argument(help="A run folder; or name the models below.")] = None,
    text2mask: Annotated[str | None, typer.Option("--text2mask", help="Folder or Hub id of a Text2Mask.")] = None,
    mask2img: Annotated[str | None, typer.Option("--mask2img", help="The same of a Mask2Img pipeline.")] = None,
    segmenter: Annotated[str | None, typer.Option("--segmenter", help="The same of a trained Mask2Former.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for what you keep and reject; RUN/demo if not given.")
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option("--port", help="First free one from 7860 if not given.")] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="A proxy's name for the page, let in too. Repeat it for more."),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    settings: Settings = None,
    debug: Debug = False,
):
    """Caption, map, image in the browser; what you keep is training data. --set text2mask_steps=50 and the like."""
    from .config import SynthesisConfig
    from .config.values import build

    values, caption = {}, ""
    if run is not None:
        quiet_libraries()
        from .demo.models import models_of_run

        config, found, caption = models_of_run(run)
        values, segmenter = dataclasses.asdict(config), segmenter or found
    values |= _synthesis_settings(settings)
    values |= {name: model for name, model in (("text2mask_model", text2mask), ("mask2img_model", mask2img)) if model}
    for name in ("text2mask", "mask2img"):
        if not values.get(f"{name}_model"):
            where = f"{run} has no finished {name}; give" if run else "Give a run folder, or"
            raise WrongArguments(f"{where} --{name} with a folder or Hub id.")
    try:
        config = build(SynthesisConfig, values, "--set")
    except ValueError as error:
        raise WrongArguments(str(error)) from error
    quiet_libraries()
    try:
        from .demo.server import check_address, serve
    except ModuleNotFoundError as error:
        raise ValueError(f"The demo needs {error.name}: pip install 'seggen_hf[demo]'") from error
    from .demo.models import load_models
    from .folders import DECISIONS, check_folder

    check_address(host, port)
    out = out or (run or Path("runs")) / "demo"
    check_folder(out, DECISIONS)
    serve(load_models(config, segmenter), out, host, port, caption, open_browser, _say, allow_host or ())


def _dumps(content) -> str:
    return json.dumps(content, indent=2)


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False):
    if version:
        print(__version__)
        raise typer.Exit()


def main() -> None:
    """Entry point of `seggen`."""
    app()


if __name__ == "__main__":
    main()
